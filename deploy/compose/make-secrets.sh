#!/bin/sh
# Write the secrets of compose.yaml to the folder `secrets` beside it. A secret that is there already is kept, so this is
# safe to repeat. Back up `secrets/secret-key`: without it the secrets in a backup of the store cannot be opened.
set -eu
umask 077
cd "$(dirname "$0")"
mkdir -p secrets
chmod 700 secrets

random() { # COUNT bytes as base64
    head -c "$1" /dev/urandom | base64 | tr -d '\n'
}

random_word() { # letters and digits only
    random 64 | tr -dc 'A-Za-z0-9' | cut -c1-43
}

hash_of() { # the SHA-256 of a word, in hexadecimal digits
    printf %s "$1" | { sha256sum 2>/dev/null || shasum -a 256; } | cut -d ' ' -f 1
}

# Write standard input to a file of that name, whole or not at all. The containers' users read it, hence the mode; the
# folder keeps it from other users of this machine.
keep() {
    cat >"secrets/.$1.draft"
    chmod 444 "secrets/.$1.draft"
    mv "secrets/.$1.draft" "secrets/$1"
    echo "made secrets/$1"
}

[ -e secrets/secret-key ] || random 32 | keep secret-key
[ -e secrets/api-key ] || echo "qe_$(random_word)" | keep api-key
[ -e secrets/grafana-password ] || random_word | keep grafana-password

# The users of the store belong together: without their file all of them get new passwords.
if [ ! -e secrets/users.acl ]; then
    engine=$(random_word) agent=$(random_word) metrics=$(random_word)
    echo "redis://engine:$engine@valkey:6379/0" | keep store-url
    echo "redis://agent:$agent@valkey:6379/0" | keep agent-store-url
    echo "$metrics" | keep metrics-store-password
    sed -e "s/^user engine off/user engine on #$(hash_of "$engine")/" \
        -e "s/^user agent off/user agent on #$(hash_of "$agent")/" \
        -e "s/^user metrics off/user metrics on #$(hash_of "$metrics")/" ../redis/users.acl | keep users.acl
fi
