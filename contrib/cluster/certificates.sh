#!/bin/sh
# Makes certificates for the servers of a cluster: docs/cluster.md, "Between the servers".
#
#   contrib/cluster/certificates.sh <folder> <address>...
#
# An address is that of --cluster-listen without the port; a name such as db1.example.org is for a database server.
# In the folder are then ca.pem, for all servers, and <address>.pem and <address>-key.pem for each of them, valid for a
# year. Run it again to renew them, or for more servers. ca-key.pem signs them: keep it away from the servers.
set -eu

if [ $# -lt 2 ]; then
  sed -n 's/^#   /usage: /p' "$0" >&2
  exit 2
fi
folder=$1
shift
umask 077
mkdir -p "$folder"
cd "$folder"

new_key() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes "$@" 2>/dev/null
}

if [ ! -e ca-key.pem ]; then
  new_key -keyout ca-key.pem -out ca.pem -days 3650 -subj "/CN=heartline cluster"
fi
for address in "$@"; do
  case $address in
    *[!0-9.]*) case $address in *:*) kind=IP ;; *) kind=DNS ;; esac ;;
    *) kind=IP ;;
  esac
  new_key -keyout "$address-key.pem" -out "$address.pem" -days 365 -subj "/CN=$address" \
    -addext "subjectAltName=$kind:$address" -addext basicConstraints=critical,CA:FALSE -CA ca.pem -CAkey ca-key.pem
done
chmod 644 ./*.pem
chmod 600 ./*-key.pem
