# Completion of lope for fish. It asks `lope COMMAND --help`, so it knows what the installed version does.

# Of the help on standard input the entries under heading $argv[1]: word, tab, description.
function __lope_entries
    awk -v heading="$argv[1]:" '
        /^[^ ]/ { inside = $0 == heading }
        inside && match($0, /^  [^ ]+/) {
            word = substr($0, 3, RLENGTH - 2)
            sub(/^  [^ ]+ +/, "")
            print word "\t" $0
        }'
end

function __lope_options
    awk '/^  -/ { n = split($1, names, ","); about = $0
        if (!sub(/^  -[^ ]*( [^ ].*)?  +/, "", about)) about = ""
        for (i = 1; i <= n; ++i) print names[i] "\t" about }'
end

function __lope_takes_value
    awk -v option="$argv[1]" '
        /^  -[^ ]* [^ ]/ { n = split($1, names, ","); for (i = 1; i <= n; ++i) if (names[i] == option) found = 1 }
        END { exit !found }'
end

function __lope_groups
    lope status --json $argv 2>/dev/null | tr '[{,' '\n\n\n' | sed -n 's/^"name":"\([^("]*\)"$/\1/p'
end

function __lope
    set -l words (commandline -opc)
    set -l word (commandline -ct)
    set -l help (lope --help 2>/dev/null | string collect)
    set -l place 1
    set -l before lope
    set -l command
    set -l socket
    for each in $words[2..]
        if string match -q -- '-*' $each
        else if echo $help | __lope_takes_value $before
            contains -- $before -s --socket; and set socket --socket $each
        else if echo $help | __lope_entries Subcommands | grep -q "^$each"\t
            set -a command $each
            set help (lope $command --help 2>/dev/null | string collect)
        else
            set place (math $place + 1)
        end
        set before $each
    end

    if echo $help | __lope_takes_value $before
        contains -- $before -c --config --file -s --socket --ca; and __fish_complete_path $word
    else if string match -q -- '-*' $word
        echo $help | __lope_options
    else if echo $help | grep -q '^Subcommands:'
        echo $help | __lope_entries Subcommands
    else
        switch (echo $help | __lope_entries Positionals | sed -n {$place}p)
            case 'group*' 'GROUP*'
                __lope_groups $socket
            case 'file*'
                __fish_complete_path $word
        end
    end
end

complete -c lope -f -a '(__lope)'
