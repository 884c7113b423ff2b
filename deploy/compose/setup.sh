#!/bin/sh
# Makes what compose.yaml mounts, in site/ beside it: secrets, the CA, a certificate of the gateways. Nothing that is
# there is made again. VENDOR.pem has the roots of the base stations' vendor.
#
#   ./setup.sh VENDOR.pem
#
# Run it as root, so that all of it can be given to the user of the image. It starts PostgreSQL for the ledger.
set -eu
umask 077
vendor=$(realpath "$1")
cd "$(dirname "$0")"
site=${SITE:-site}
# The program, and the directory that it knows as site/: by default in a container of the service `admin`.
run=${RA_GATEWAY:-docker compose run --rm --no-TTY --user 0 admin}
inside=${RA_GATEWAY:+$site}
inside=${inside:-/site}

secret() { [ -e "$1" ] || openssl rand -hex 32 > "$1"; }

mkdir -p "$site/ca" "$site/gateway/operator" "$site/gateway/vendors" "$site/gateway/ra"
chmod 0755 "$site" "$site/ca" "$site/gateway" "$site/gateway/operator" "$site/gateway/vendors" "$site/gateway/ra"
for name in redis.password postgres.password grafana.password gateway/seal.key; do
  secret "$site/$name"
done
[ -e "$site/redis.conf" ] || cat > "$site/redis.conf" <<END
requirepass $(cat "$site/redis.password")
maxmemory-policy noeviction
appendonly yes
appendfsync everysec
END
[ -e "$site/gateway/redis.url" ] || echo "redis://:$(cat "$site/redis.password")@redis:6379/0" > "$site/gateway/redis.url"
[ -e "$site/ca/ledger.url" ] ||
  echo "postgresql://ca:$(cat "$site/postgres.password")@postgres:5432/ledger?sslmode=disable" > "$site/ca/ledger.url"
[ -e "$site/ca/ca.toml" ] || install -m 0644 ca.toml "$site/ca/ca.toml"
[ -e "$site/gateway/gateway.toml" ] || install -m 0644 gateway.toml "$site/gateway/gateway.toml"
install -m 0644 "$vendor" "$site/gateway/vendors/acme.pem"
[ -n "${RA_GATEWAY:-}" ] || {
  chown 999 "$site/redis.conf"
  chown 70 "$site/postgres.password"
  chown 472 "$site/grafana.password"
  docker compose build --quiet admin
  docker compose up --detach --wait postgres
}

if [ ! -e "$site/ca/ca" ]; then
  $run ca create "$inside/ca/ca" --organisation "Example Operator" \
    --san dns:ca.example.net --crl-url "http://ca.example.net:8082/crl/{issuer}.crl"
fi
ca="--config $inside/ca/ca.toml"
if [ ! -e "$site/gateway/ra/ra.key" ]; then
  secret "$site/transport.password"
  $run ca migrate $ca
  $run ca role add ra --privilege issue --privilege update --privilege revoke $ca
  $run ca ra issue gateway --role ra --subject "CN=gateway.example.net,O=Example Operator" --san dns:gateway.example.net \
    --out "$inside/gateway.p12" --password-file "$inside/transport.password" $ca
  install -m 0644 "$site/ca/ca/root.pem" "$site/ca/ca/issuing.pem" "$site/gateway/operator/"
  $run ca ra install "$inside/gateway.p12" --password-file "$inside/transport.password" \
    --config "$inside/gateway/gateway.toml"
  rm "$site/gateway.p12" "$site/transport.password"
fi
[ -n "${RA_GATEWAY:-}" ] || chown -R 10001:10001 "$site/ca" "$site/gateway"
echo "Move $site/ca/ca/root.key offline now, in two copies. Then: docker compose up --detach"
