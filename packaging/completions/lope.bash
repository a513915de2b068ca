# Completion of lope for bash. It asks `lope COMMAND --help`, so it knows what the installed version does.

# The first words of the entries under heading $1, of the help on standard input.
_lope_entries() {
  awk -v heading="$1:" '
    /^[^ ]/ { inside = $0 == heading }
    inside && match($0, /^  [^ ]+/) { print substr($0, 3, RLENGTH - 2) }'
}

_lope_options() {
  awk '/^  -/ { n = split($1, names, ","); for (i = 1; i <= n; ++i) print names[i] }'
}

_lope_takes_value() { # OPTION
  awk -v option="$1" '
    /^  -[^ ]* [^ ]/ { n = split($1, names, ","); for (i = 1; i <= n; ++i) if (names[i] == option) found = 1 }
    END { exit !found }'
}

_lope_groups() { # [--socket SOCKET]
  lope status --json "$@" 2>/dev/null | tr '[{,' '\n\n\n' | sed -n 's/^"name":"\([^("]*\)"$/\1/p'
}

_lope() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} help candidates='' place=1 i
  local -a command=() socket=()
  help=$(lope --help 2>/dev/null) || return
  for ((i = 1; i < COMP_CWORD; ++i)); do
    if [[ ${COMP_WORDS[i]} == -* ]]; then
      continue
    elif _lope_takes_value "${COMP_WORDS[i - 1]}" <<<"$help"; then
      [[ ! ${COMP_WORDS[i - 1]} =~ ^(-s|--socket)$ ]] || socket=(--socket "${COMP_WORDS[i]}")
    elif _lope_entries Subcommands <<<"$help" | grep -qxF -e "${COMP_WORDS[i]}"; then
      command+=("${COMP_WORDS[i]}")
      help=$(lope "${command[@]}" --help 2>/dev/null) || return
    else
      place=$((place + 1))
    fi
  done

  COMPREPLY=()
  if _lope_takes_value "$before" <<<"$help"; then
    [[ ! $before =~ ^(-c|--config|--file|-s|--socket|--ca)$ ]] || mapfile -t COMPREPLY < <(compgen -f -- "$word")
    return
  elif [[ $word == -* ]]; then
    candidates=$(_lope_options <<<"$help")
  elif grep -q '^Subcommands:' <<<"$help"; then
    candidates=$(_lope_entries Subcommands <<<"$help")
  else
    case $(_lope_entries Positionals <<<"$help" | sed -n "${place}p") in
      group | GROUP) candidates=$(_lope_groups "${socket[@]}") ;;
      file) mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
    esac
  fi
  [[ -z $candidates ]] || mapfile -t COMPREPLY < <(compgen -W "$candidates" -- "$word")
}

complete -o filenames -F _lope lope
