"""`python -m ra_gateway` is the command `ra-gateway`."""

from ra_gateway.cli.main import main

if __name__ == "__main__":
    main()
