// Package vmboot is what a virtual machine's first process is told, and the
// words it exchanges with the engine that booted it. Both ends use it:
// vmcore/engine/vm on the host, agent/guest/vm in the machine.
//
// A [Config] is on the kernel's command line, as the value of [Parameter].
//
// The engine channel is a stream of lines beside the agent's control channel;
// it carries no box's data:
//
//	machine → host   ready 1            the version of these words
//	host → machine   7 freeze           a number of the host's choice, and a command
//	machine → host   7 ok               or: 7 error what went wrong
//
// The commands are the Cmd constants. The host takes the machine for hostile:
// it reads at most [MaxLine] bytes of a line and waits no longer than its
// context says.
package vmboot

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Version is that of Config and of the channel's words.
const Version = 1

// Parameter is the kernel parameter whose value is a Config. The kernel hands
// names with a dot to modules, and ignores those of modules it does not have.
const Parameter = "boxlite.config"

// MaxLine bounds a line of the engine channel, in bytes, its end excluded.
const MaxLine = 1024

// The commands of the engine channel.
const (
	CmdFreeze = "freeze" // make the writable layer durable and let nothing write to it until thaw
	CmdThaw   = "thaw"   // let it be written to again; no error if it is not frozen
	CmdSync   = "sync"   // make the writable layer durable as of now
	CmdTime   = "time"   // followed by nanoseconds since 1970: set the clock
	CmdWork   = "work"   // followed by a number of rounds: do [Work]; answers "ok" and nanoseconds
)

// The names of the virtio-serial ports that carry the channels.
const (
	ControlPort = "boxlite.agent"
	EnginePort  = "boxlite.engine"
)

// The virtio-blk serial numbers of the machine's disks.
const (
	BaseDisk  = "boxlite-base"
	LayerDisk = "boxlite-layer"
)

// A Config is what the first process is told.
type Config struct {
	Version   int    `json:"v"`
	Hostname  string `json:"host"`
	Processes int    `json:"pids"`          // most processes of the box
	Time      int64  `json:"time"`          // nanoseconds since 1970, about now
	NIC       *NIC   `json:"nic,omitempty"` // nil: loopback only
}

// A NIC is the configuration of the one network interface.
type NIC struct {
	MTU     int          `json:"mtu"`
	Address netip.Prefix `json:"addr"`
	Gateway netip.Addr   `json:"gw"`
}

// Encode returns the Config as one word of letters, digits, - and _.
func (c Config) Encode() string {
	c.Version = Version
	data, err := json.Marshal(c)
	if err != nil {
		panic(err) // every field can be marshalled
	}
	return base64.RawURLEncoding.EncodeToString(data)
}

// FromCommandLine returns the Config on a kernel's command line.
func FromCommandLine(line string) (Config, error) {
	for word := range strings.FieldsSeq(line) {
		value, ok := strings.CutPrefix(word, Parameter+"=")
		if !ok {
			continue
		}
		var c Config
		data, err := base64.RawURLEncoding.DecodeString(value)
		if err == nil {
			err = json.Unmarshal(data, &c)
		}
		switch {
		case err != nil:
			return Config{}, fmt.Errorf("%s on the kernel's command line: %w", Parameter, err)
		case c.Version != Version:
			return Config{}, fmt.Errorf("%s has version %d, this program knows %d", Parameter, c.Version, Version)
		}
		return c, nil
	}
	return Config{}, errors.New("no " + Parameter + " on the kernel's command line")
}

// Work keeps a CPU busy for a number of rounds, the same in the machine and on
// the host, and returns a value that depends on all of them.
func Work(rounds int64) uint64 {
	var table [256]uint64
	x := uint64(0x9E3779B97F4A7C15)
	for range rounds {
		for i := range table {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
			table[i] += x + table[x&255]
		}
	}
	return table[x&255]
}
