// Package config is the operator's configuration of a home: one TOML file, what
// may be in it, what is wrong with it, and what it says to the parts of the
// program that hold to it.
//
// It decides nothing itself: package vmcore holds to what boxes are made of and
// reach, package sessions to what principals may have, and the front ends to the
// tools that there are. It writes no file but the one that config init asks for.
//
//	f, err := config.Open(config.Path(home))
//	policy, err := f.Policy(ctx)
//	text := config.Template()
//
// The types of this file are the file: each field is a setting, with what it is
// about in its tags. The template, the list of what counts, the check and the
// test of the documentation are made from them, so that no setting is forgotten.
//
//	toml:"name"       its name, in the table of its struct
//	doc:"…"           what it is about, for people
//	example:"…"       a value, in TOML, where the default says little
//	min:"1" max:"64"  the range of a number
//	enum:"a,b"        what texts there may be
//
// A File never changes; a [Follower] may be used by several goroutines.
package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// Path returns the path of the operator's configuration of a home. It need not be
// there.
func Path(home string) string { return filepath.Join(home, "config.toml") }

// A settings is what the file may say.
type settings struct {
	Network network           `toml:"network" doc:"What boxes reach."`
	Images  images            `toml:"images" doc:"What boxes are made from."`
	Limits  limits            `toml:"limits" doc:"What all boxes of one principal (a client, a token) may use together. 0: no limit."`
	Engine  engine            `toml:"engine" doc:"What boxes run on."`
	Tools   tools             `toml:"tools" doc:"What MCP clients see."`
	Secrets map[string]secret `toml:"secrets" doc:"Keys that boxes use and never see. Each is a table of its own, [secrets.NAME]."`
}

type network struct {
	AllowNet []string `toml:"allow_net" doc:"The most that agents may ask for in allow_net; the default is the public Internet. Private addresses have to be named here before an agent can ask for them. Boxes that run are narrowed when this is." example:"[\"*\", \"udp/*\", \"10.1.0.0/16:5432\"]"`
	Static   []string `toml:"static" doc:"Where some names lead, in place of DNS. An entry opens that address for that name, and nothing else." example:"[\"api.internal=10.1.2.3:443\"]"`
	CAFile   string   `toml:"ca_file" doc:"Certificates (PEM) that verify hosts, beside the system's authorities, where connections are read because a secret or an HTTP rule is bound to the host." example:"\"/etc/ssl/internal-ca.pem\""`

	MaxSentMiB     int `toml:"max_sent_mib" min:"0" max:"1073741824" doc:"How much a box may send from a start to the next stop. 0: no limit."`
	MaxReceivedMiB int `toml:"max_received_mib" min:"0" max:"1073741824" doc:"How much a box may receive from a start to the next stop. 0: no limit."`
	Connections    int `toml:"connections" min:"1" max:"65536" doc:"TCP connections of a box at once."`
	Flows          int `toml:"flows" min:"1" max:"65536" doc:"UDP flows of a box at once."`
	ConnectRate    int `toml:"connect_rate" min:"1" max:"1000000" doc:"New connections and flows of a box a second, in bursts of twice that."`
	LookupRate     int `toml:"lookup_rate" min:"1" max:"1000000" doc:"DNS questions of a box a second, in bursts of twice that."`
}

type images struct {
	Registries []string `toml:"registries" doc:"Where images may come from, in the order of search, as --registry is written. A --registry of a client chooses from these and adds none. Without any: what the client's --registry says, or docker.io." example:"[\"docker.io\", \"registry.example/team\", \"http://10.0.0.5:5000\"]"`
	Allow      []string `toml:"allow" doc:"Which images, as HOST/NAME or HOST/NAME:TAG in which * is any characters. Without any: all that these registries have." example:"[\"docker.io/library/python:3.*\", \"registry.example/team/*\"]"`
	LocalRoots []string `toml:"local_roots" doc:"Directories of this host below which agents may name layouts, archives and root directories as images." example:"[\"/srv/images\"]"`
}

type limits struct {
	Boxes      int `toml:"boxes" min:"0" max:"1000000" doc:"Boxes that there are, running or not."`
	DiskGB     int `toml:"disk_gb" min:"0" max:"1000000000" doc:"GiB of their disks, as they were asked for."`
	CPUs       int `toml:"cpus" min:"0" max:"1000000" doc:"CPUs of the boxes that run."`
	MemoryMiB  int `toml:"memory_mib" min:"0" max:"1000000000" doc:"MiB of memory of the boxes that run."`
	Executions int `toml:"executions" min:"0" max:"1000000" doc:"Commands at once."`

	Box boxLimits `toml:"box" doc:"What one box gets where its maker says nothing, and the most that he may ask for: max_…, of which 0 is no limit. They count for boxes that are made from then on."`
}

type boxLimits struct {
	CPUs         int `toml:"cpus" min:"1" max:"64" doc:"CPUs."`
	MaxCPUs      int `toml:"max_cpus" min:"0" max:"64" doc:"The most."`
	MemoryMiB    int `toml:"memory_mib" min:"64" max:"1048576" doc:"Memory, in MiB."`
	MaxMemoryMiB int `toml:"max_memory_mib" min:"0" max:"1048576" doc:"The most."`
	DiskGB       int `toml:"disk_gb" min:"1" max:"16384" doc:"Disk, in GiB."`
	MaxDiskGB    int `toml:"max_disk_gb" min:"0" max:"16384" doc:"The most."`

	IdleTimeoutSeconds    int `toml:"idle_timeout_seconds" min:"0" max:"31536000" doc:"A box is stopped after this long without use, and its disk kept. 0: never."`
	MaxIdleTimeoutSeconds int `toml:"max_idle_timeout_seconds" min:"0" max:"31536000" doc:"The most; then no box may be kept running for ever."`
	MaxLifetimeSeconds    int `toml:"max_lifetime_seconds" min:"0" max:"31536000" doc:"A box is removed this long after it was made, at the latest."`
}

type engine struct {
	Allowed   []string `toml:"allowed" enum:"gvisor,qemu,qemu-tcg" doc:"Engines that boxes may run on, the preferred first: gvisor, qemu (with KVM, or emulated), qemu-tcg (only emulated). Without any: all that this host has." example:"[\"qemu\", \"gvisor\"]"`
	Default   string   `toml:"default" enum:"auto,gvisor,qemu,qemu-tcg" doc:"The engine of a box that names none. auto: the best that this host has, or the first of allowed that works."`
	Isolation string   `toml:"isolation" enum:"any,sandbox,vm,hardware-vm" doc:"The least isolation: any, sandbox (an application kernel or better, which all engines are), vm, hardware-vm."`
}

type tools struct {
	ReadOnly bool     `toml:"read_only" doc:"Clients look and change nothing; the tools that change something are not there."`
	Toolsets []string `toml:"toolsets" enum:"boxes,exec,files,images,network" doc:"Which tools there are."`
	Disabled []string `toml:"disabled" enum:"boxes,exec,files,images,network" doc:"Toolsets that are taken away from those." example:"[\"images\"]"`
}

// A secret is a secret whose value is elsewhere.
type secret struct {
	Hosts       []string `toml:"hosts" doc:"Hosts that it goes to, and no others." example:"[\"api.openai.com\", \"*.openai.com\"]"`
	File        string   `toml:"file" doc:"The file with its value, which only its owner reads. It is read with this file." example:"\"/run/secrets/openai\""`
	Command     []string `toml:"command" doc:"Or the program, by its whole path, that prints it." example:"[\"/usr/bin/pass\", \"show\", \"openai\"]"`
	Placeholder string   `toml:"placeholder" doc:"What programs in the box send in its place. Empty: <BOXLITE_SECRET:NAME>."`
	InQuery     bool     `toml:"query" doc:"Also put it into the query of URLs."`
	InBody      bool     `toml:"body" doc:"Also put it into the bodies of requests."`
}

// defaults returns what counts where the file says nothing.
func defaults() settings {
	return settings{
		Network: network{AllowNet: []string{"*", "udp/*"}, Connections: 512, Flows: 512, ConnectRate: 1000, LookupRate: 200},
		Limits: limits{Box: boxLimits{
			CPUs: boxlite.DefaultCPUs, MemoryMiB: int(boxlite.DefaultMemory.MiB()), DiskGB: int(boxlite.DefaultDisk.GiB()),
			IdleTimeoutSeconds: 1800,
		}},
		Engine: engine{Default: "auto", Isolation: "any"},
		Tools:  tools{Toolsets: toolsets()},
	}
}

func toolsets() []string { return []string{"boxes", "exec", "files", "images", "network"} }

// A File is the configuration as somebody wrote it. It is right as far as can be
// said without looking at other files and running commands.
type File struct {
	path     string
	settings settings
	lines    map[string]int // of the settings that are in the file
	text     []byte
}

// Text returns the file as somebody wrote it. It names secrets, and has none.
func (f *File) Text() []byte { return slices.Clone(f.text) }

// Open reads the file. One that is not there says nothing, which is right.
//
// Errors: Config, with [Problems] as cause; Storage.
func Open(path string) (*File, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &File{path: path, settings: defaults()}, nil
	}
	if err != nil {
		return nil, &boxlite.Error{Op: "read configuration", Kind: boxlite.Storage, Ref: path, Err: err}
	}
	return parse(path, data)
}

// parse reads the text of the file at path.
//
// Errors: Config, with [Problems] as cause.
func parse(path string, data []byte) (*File, error) {
	r := &reader{file: &File{path: path, settings: defaults(), text: data}}
	r.read(data)
	_, more := r.file.static()
	for _, p := range more {
		if !slices.ContainsFunc(r.problems, func(q Problem) bool { return q.Key == p.Key || strings.HasPrefix(q.Key, p.Key+".") }) {
			r.problems = append(r.problems, p) // it does not follow from one that was told
		}
	}
	return r.file, r.problems.asError(path)
}
