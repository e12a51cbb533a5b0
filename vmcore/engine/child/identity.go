// Package child is what engines do alike with the processes that are their
// machines: whose they are, what they say, and what they use.
package child

import (
	"fmt"
	"hash/fnv"
	"os"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// Nobody is the user that nothing belongs to.
const Nobody = 65534

// What root runs machines as: each as a user of its own, far from those that
// people, services and containers have.
const (
	firstID = 0x7000_0000
	ids     = 1 << 24
)

// OwnID returns the user of one machine, or [Nobody] where the process's own user
// namespace, described by the file idMap, does not have that many.
func OwnID(idMap string, machine boxlite.ContainerID) int {
	data, err := os.ReadFile(idMap)
	if err != nil {
		return Nobody
	}
	hash := fnv.New32a()
	hash.Write([]byte(machine))
	id := firstID + int64(hash.Sum32()%ids)
	for line := range strings.Lines(string(data)) {
		var inside, outside, count int64
		if _, err := fmt.Sscan(line, &inside, &outside, &count); err == nil && id >= inside && id < inside+count {
			return int(id)
		}
	}
	return Nobody
}
