// Command boxlite-agent is the program inside a box: package guest, and package
// guest/vm where it is a virtual machine's first process.
package main

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/boxlite-mcp/boxlite-mcp/agent/guest"
	"github.com/boxlite-mcp/boxlite-mcp/agent/guest/vm"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "boxlite-agent:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if slices.Equal(args, []string{"vm"}) {
		return vm.Main(ctx)
	}
	return guest.Main(ctx, args)
}
