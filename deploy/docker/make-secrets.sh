#!/bin/sh
# make-secrets.sh [FOLDER]: makes what compose.yaml needs to be secret, where it is not there yet (./secrets).
#
# A secret that was removed is made anew, and so is what is derived from it: that is how they are rotated, see
# docs/operations.md. The folder is closed to everybody but you; the files in it can be read by anyone who gets that
# far, because each container sees single files of it, as a user that is not you.
set -eu
folder=${1:-secrets}
mkdir -p "$folder"
chmod 0700 "$folder"
cd "$folder"
umask 0333 # files of mode 0444, written once

random() { head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }
absent() { [ ! -e "$1" ]; }

if absent postgres_password; then random >postgres_password && rm -f database_url && echo "made $folder/postgres_password"; fi
if absent redis_password; then random >redis_password && rm -f redis_auth broker_url && echo "made $folder/redis_password"; fi
if absent postgres_superuser_password; then random >postgres_superuser_password && echo "made $folder/postgres_superuser_password"; fi
if absent secret_key; then random >secret_key && echo "made $folder/secret_key"; fi
if absent flower_login; then printf 'operator:%s\n' "$(random)" >flower_login && echo "made $folder/flower_login"; fi

if absent database_url; then
    printf 'postgresql+psycopg://millrace:%s@postgres:5432/millrace\n' "$(cat postgres_password)" >database_url
fi
if absent redis_auth; then printf 'requirepass %s\n' "$(cat redis_password)" >redis_auth; fi
if absent broker_url; then printf 'redis://:%s@redis:6379/0\n' "$(cat redis_password)" >broker_url; fi
