// Command tapvsock is gvisor-tap-vsock on a link like ours, for package bench to
// compare with: frames on descriptor 3, one a datagram; the guest reaches this
// machine's loopback at 192.168.127.254. It ends with its standard input.
//
// It is a module of its own, because it needs another version of gVisor.
package main

import (
	"context"
	"io"
	"log"
	"net"
	"os"

	"github.com/containers/gvisor-tap-vsock/pkg/types"
	"github.com/containers/gvisor-tap-vsock/pkg/virtualnetwork"
)

func main() {
	vn, err := virtualnetwork.New(&types.Configuration{
		MTU: 9000, Subnet: "192.168.127.0/24", GatewayIP: "192.168.127.1", GatewayMacAddress: "5a:94:ef:e4:0c:dd",
		NAT: map[string]string{"192.168.127.254": "127.0.0.1"}, GatewayVirtualIPs: []string{"192.168.127.254"},
		Protocol: types.VfkitProtocol,
	})
	if err != nil {
		log.Fatal(err)
	}
	conn, err := net.FileConn(os.NewFile(3, "link"))
	if err != nil {
		log.Fatal(err)
	}
	go func() { log.Fatal(vn.AcceptVfkit(context.Background(), conn)) }()
	_, _ = io.Copy(io.Discard, os.Stdin)
}
