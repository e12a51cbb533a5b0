// Command boxlite-agent is the program inside a box: package guest.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/boxlite-mcp/boxlite-mcp/agent/guest"
)

func main() {
	if err := guest.Main(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "boxlite-agent:", err)
		os.Exit(1)
	}
}
