package sessions

import (
	"errors"
	"fmt"
	"strings"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore"
)

// A Policy is what the operator lets principals do. The operator is not bound by
// it. The zero Policy lets them do everything; [DefaultPolicy] is what counts
// where the operator says nothing. The names of its settings are those of
// config.toml.
type Policy struct {
	Limits     Limits
	Box        BoxLimits
	ReadOnly   bool     // nothing may be changed
	Registries []string // a client's configuration may name no others; none: any
}

// Limits bound what all boxes of one principal use. 0: no limit.
type Limits struct {
	Boxes      int // that there are
	DiskGB     int // of their disks' sizes
	CPUs       int // of those that run
	MemoryMiB  int // of those that run
	Executions int // that run
}

// BoxLimits are the defaults of one box, where its maker says nothing, and the
// most that he may ask for. A default beyond the most is the most. 0: for a
// default boxlite's own, for the most no limit.
type BoxLimits struct {
	CPUs, MaxCPUs           int
	MemoryMiB, MaxMemoryMiB int
	DiskGB, MaxDiskGB       int

	IdleTimeout    time.Duration // 0: never
	MaxIdleTimeout time.Duration
	MaxLifetime    time.Duration
}

// DefaultPolicy is what counts where the operator says nothing.
func DefaultPolicy() Policy {
	return Policy{Box: BoxLimits{CPUs: boxlite.DefaultCPUs, MemoryMiB: int(boxlite.DefaultMemory.MiB()), DiskGB: int(boxlite.DefaultDisk.GiB()),
		IdleTimeout: vmcore.DefaultIdleTimeout}}
}

// SetPolicy replaces the policy, for calls from now on. Boxes stay as they were
// made.
func (m *Manager) SetPolicy(p Policy) { m.policy.Store(&p) }

// mayChange refuses to change anything where the operator wants that nothing is.
func (s *Session) mayChange(op string) error {
	if s.scope.All || !s.m.policy.Load().ReadOnly {
		return nil
	}
	return &boxlite.Error{Op: op, Kind: boxlite.Denied, Err: errors.New("tools.read_only = true in config.toml"),
		Hint: "Only look at what there is, or ask the operator."}
}

// checkRegistries refuses registries that the operator does not have.
func (p Policy) checkRegistries(names []string) error {
	if len(p.Registries) == 0 {
		return nil
	}
	theirs, err := vmcore.ParseRegistries(p.Registries)
	if err != nil {
		return err
	}
	mine, err := vmcore.ParseRegistries(names)
	if err != nil {
		return err
	}
	for i, r := range mine {
		known := false
		for _, t := range theirs {
			known = known || t.Name() == r.Name()
		}
		if !known {
			return &boxlite.Error{Op: "use registry", Kind: boxlite.Denied, Ref: names[i],
				Err:  fmt.Errorf("images.registries = [%s] in config.toml does not have it", strings.Join(p.Registries, ", ")),
				Hint: "Take --registry " + names[i] + " out of the client's configuration, or ask the operator to add it."}
		}
	}
	return nil
}

// apply fills in what a request for a box leaves out, and refuses what is too
// much.
//
// Errors: Denied.
func (b BoxLimits) apply(req *boxlite.CreateRequest) error {
	for _, v := range []struct {
		field     *int
		key       string
		def, most int
	}{
		{&req.Options.CPUs, "cpus", b.CPUs, b.MaxCPUs},
		{&req.Options.MemoryMiB, "memory_mib", b.MemoryMiB, b.MaxMemoryMiB},
		{&req.Options.DiskSizeGB, "disk_gb", b.DiskGB, b.MaxDiskGB},
	} {
		if *v.field == 0 {
			*v.field = v.def
			if v.most > 0 && (v.def == 0 || v.def > v.most) {
				*v.field = v.most
			}
		}
		if v.most > 0 && *v.field > v.most {
			return tooMuch(v.key, fmt.Sprint(*v.field), "max_"+v.key, v.most)
		}
	}
	return b.applyTimes(req)
}

func (b BoxLimits) applyTimes(req *boxlite.CreateRequest) error {
	most := boxlite.Seconds(b.MaxIdleTimeout / time.Second)
	if req.IdleTimeout == nil {
		idle := boxlite.Seconds(b.IdleTimeout / time.Second)
		if most > 0 && (idle == 0 || idle > most) {
			idle = most
		}
		req.IdleTimeout = &idle
	}
	if idle := *req.IdleTimeout; most > 0 && (idle == 0 || idle > most) {
		return tooMuch("idle_timeout_seconds", orNever(idle), "max_idle_timeout_seconds", int(most))
	}
	life := boxlite.Seconds(b.MaxLifetime / time.Second)
	if life > 0 && req.TTL == 0 {
		req.TTL = life
	}
	if life > 0 && req.TTL > life {
		return tooMuch("ttl_seconds", orNever(req.TTL), "max_lifetime_seconds", int(life))
	}
	return nil
}

func orNever(s boxlite.Seconds) string {
	if s == 0 {
		return "never"
	}
	return fmt.Sprint(int64(s))
}

func tooMuch(what, asked, key string, most int) error {
	return &boxlite.Error{Op: "create box", Kind: boxlite.Denied, Err: fmt.Errorf("%s %s is more than limits.box.%s = %d in config.toml", what, asked, key, most),
		Hint: fmt.Sprintf("Ask for at most %d, or leave %s out.", most, what)}
}

// used adds up what boxes are and use.
func used(list []boxlite.BoxInfo) (n Limits) {
	for _, b := range list {
		n.Boxes++
		n.DiskGB += b.DiskSizeGB
		if b.Status.IsActive() || b.Phase != "" {
			n.CPUs += b.CPUs
			n.MemoryMiB += b.MemoryMiB
		}
	}
	return n
}

// exceeds returns the refusal for more of something than there may be.
func exceeds(op, key, what string, most, have, more int, hint string) error {
	if most == 0 || have+more <= most {
		return nil
	}
	return &boxlite.Error{Op: op, Kind: boxlite.Exhausted, Err: fmt.Errorf("%s: %d in use, %d asked for, and limits.%s = %d in config.toml", what, have, more, key, most), Hint: hint}
}
