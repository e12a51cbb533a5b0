// Command hang is a first process that never becomes ready.
package main

import (
	"fmt"
	"os"
	"time"
)

func main() {
	fmt.Fprintln(os.Stderr, "I hang, as the first process of number", os.Getpid())
	for {
		time.Sleep(time.Hour)
	}
}
