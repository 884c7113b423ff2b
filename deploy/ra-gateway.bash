_ra_gateway_completion() {
    local IFS=$'
'
    COMPREPLY=( $( env COMP_WORDS="${COMP_WORDS[*]}" \
                   COMP_CWORD=$COMP_CWORD \
                   _RA_GATEWAY_COMPLETE=complete_bash $1 ) )
    return 0
}

complete -o default -F _ra_gateway_completion ra-gateway
