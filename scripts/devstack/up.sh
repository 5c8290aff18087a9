#!/usr/bin/env bash
# up.sh [BROKERS=1] [NODES=1]: fetches the jars if need be, starts Kafka and Cassandra (no harm if they run) and prints
# the addresses to connect to. Progress goes to stderr, so this works:  eval "$(./up.sh)"
. "$(dirname "$0")/env.sh"
{
  "$HERE/fetch.sh"
  "$HERE/kafka.sh" start "${1:-1}" &
  kafka=$!
  "$HERE/cassandra.sh" start "${2:-1}"
  wait "$kafka"
} >&2
echo "KAFKA=$("$HERE/kafka.sh" addresses)"
echo "CASSANDRA=$("$HERE/cassandra.sh" addresses)"
