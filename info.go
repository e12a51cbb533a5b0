package boxlite

import "time"

// BoxInfo is what can be known about a box without touching its machine.
type BoxInfo struct {
	ID        BoxID             `json:"id"`
	Name      string            `json:"name,omitempty"`
	Principal string            `json:"principal,omitempty"` // whose box it is
	Labels    map[string]string `json:"labels,omitempty"`
	CreatedAt time.Time         `json:"created_at"` // UTC
	BoxState

	Image       string `json:"image"`                  // reference or root directory, as asked for
	ImageDigest string `json:"image_digest,omitempty"` // pinned at first start
	CPUs        int    `json:"cpus"`
	MemoryMiB   int    `json:"memory_mib"`
	DiskSizeGB  int    `json:"disk_size_gb"`
	Engine      string `json:"engine,omitempty"`    // that it got; "" before its first start
	Isolation   string `json:"isolation,omitempty"` // "hardware-vm", "emulated-vm", "user-kernel"
	Limits      string `json:"limits,omitempty"`    // how CPU and memory limits are enforced, where that is weaker than asked for
	AutoRemove  bool   `json:"auto_remove"`
	Detach      bool   `json:"detach"`

	Network NetworkSpec `json:"network,omitzero"`  // what it may reach now
	Secrets []string    `json:"secrets,omitempty"` // names of those it may use

	LastUsed  time.Time  `json:"last_used"`            // start, execution or file access
	ExpiresAt *time.Time `json:"expires_at,omitempty"` // removed then, where a time to live was given
}

// ImageInfo describes an image in the cache.
type ImageInfo struct {
	Reference string    `json:"reference"` // canonical, with registry and tag or digest
	Digest    string    `json:"digest"`    // of the platform's manifest: sha256:…
	Size      Bytes     `json:"size"`      // of the flattened base on disk
	Created   time.Time `json:"created,omitzero"`
	Pulled    time.Time `json:"pulled"`
	Layers    int       `json:"layers"`
	Platform  string    `json:"platform"` // linux/amd64
	InUse     int       `json:"in_use"`   // boxes that need it
}

// Progress is one step of something long, for people to watch.
type Progress struct {
	Phase   string `json:"phase"`           // short and human: "pulling image"
	Current int64  `json:"current"`         // bytes done
	Total   int64  `json:"total,omitempty"` // bytes in all; 0 if not known
}

// FileInfo describes a file in a box.
type FileInfo struct {
	Path     string    `json:"path"`
	Size     int64     `json:"size"`
	Mode     uint32    `json:"mode"` // type and permission bits as in stat(2)
	UID      uint32    `json:"uid"`
	GID      uint32    `json:"gid"`
	Modified time.Time `json:"modified"`
}

// RuntimeMetrics are totals over all boxes of a runtime, since its home was
// made for the totals, and now for the rest.
type RuntimeMetrics struct {
	BoxesCreated int64 `json:"boxes_created_total"`
	BoxesFailed  int64 `json:"boxes_failed_total"`
	BoxesRunning int64 `json:"num_running_boxes"`
	CommandsRun  int64 `json:"total_commands_run"`
	RunErrors    int64 `json:"total_run_errors"`
}

// BoxMetrics are the figures of one box. Those that need a running machine are
// nil without one.
type BoxMetrics struct {
	CommandsRun   int64          `json:"commands_run_total"`
	RunErrors     int64          `json:"run_errors_total"`
	BytesSent     int64          `json:"bytes_sent_total"`     // to standard inputs
	BytesReceived int64          `json:"bytes_received_total"` // from standard outputs and errors
	TotalCreate   *time.Duration `json:"total_create_duration_ns,omitempty"`
	GuestBoot     *time.Duration `json:"guest_boot_duration_ns,omitempty"`
	CPUPercent    *float64       `json:"cpu_percent,omitempty"` // of all its CPUs, 0 to 100, since the last question
	Memory        *Bytes         `json:"memory_bytes,omitempty"`
	Disk          *Bytes         `json:"disk_bytes,omitempty"` // of the writable layer
	Stages        StageTiming    `json:"stages"`
}

// StageTiming says how long each stage of the last start took.
type StageTiming struct {
	FilesystemSetup time.Duration `json:"stage_filesystem_setup_ns,omitempty"` // 1: directories
	ImagePrepare    time.Duration `json:"stage_image_prepare_ns,omitempty"`    // 2: pull and flatten
	GuestRootfs     time.Duration `json:"stage_guest_rootfs_ns,omitempty"`     // 3: writable layer
	BoxConfig       time.Duration `json:"stage_box_config_ns,omitempty"`       // 4: machine specification
	BoxSpawn        time.Duration `json:"stage_box_spawn_ns,omitempty"`        // 5: shim and machine
	ContainerInit   time.Duration `json:"stage_container_init_ns,omitempty"`   // 6: agent ready
}
