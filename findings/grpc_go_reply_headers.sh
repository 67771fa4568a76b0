#!/usr/bin/env bash
# gRPC over HTTP/2 allows a suffix in content-type (`application/grpc+proto`); a parameter is not a suffix. A grpc-go
# server repeats `application/grpc; charset=utf-8` as `application/grpc+ charset=utf-8`. It also compresses its reply
# with gzip for a client that sent gzip without grpc-accept-encoding: by compression.md a server may use only encodings
# that the client accepts.
# Needs: go, curl with HTTP/2.
set -euo pipefail
folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$folder"' EXIT
cd "$folder"
cat > main.go <<'GO'
package main

import (
	"fmt"
	"net"

	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	fmt.Println(listener.Addr())
	server.Serve(listener)
}
GO
go mod init see >/dev/null 2>&1
go get google.golang.org/grpc@v1.85.0 2>/dev/null
go mod tidy 2>/dev/null
go build -o server .
./server > address & server=$!
until [ -s address ]; do sleep 0.1; done
printf '\0\0\0\0\0' > empty
(printf '\1\0\0\0\24'; printf '' | gzip -n) > compressed
[ "$(stat -c %s compressed)" = 25 ]
ask() {
  curl --silent --noproxy '*' --http2-prior-knowledge --max-time 10 -o reply -D headers -H 'te: trailers' "$@" \
    "http://$(cat address)/grpc.health.v1.Health/Check"
}
echo "grpc-go $(go list -m -f '{{.Version}}' google.golang.org/grpc), $(curl --version | head -n 1 | cut -d ' ' -f 1,2)"
ask --data-binary @empty -H 'content-type: application/grpc; charset=utf-8'
type=$(tr -d '\r' < headers | sed -n 's/^content-type: //p')
echo "sent content-type: application/grpc; charset=utf-8; the reply has content-type: $type"
ask --data-binary @compressed -H 'content-type: application/grpc' -H 'grpc-encoding: gzip'
encoding=$(tr -d '\r' < headers | sed -n 's/^grpc-encoding: //p')
flag=$(od -An -tu1 -N1 reply | tr -d ' ')
echo "sent gzip without grpc-accept-encoding; the reply has grpc-encoding: ${encoding:-none}, compressed flag $flag"
[ "$type" = 'application/grpc+ charset=utf-8' ] && [ "$encoding" = gzip ] && [ "$flag" = 1 ]
