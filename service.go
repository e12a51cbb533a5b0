package boxlite

import (
	"context"
	"time"
)

// A Service is everything one principal can do with the boxes of one home. In
// the daemon package sessions implements it; elsewhere internal/rpc does, over
// the daemon's socket. The MCP tools and the command line are written against
// it. Handles of other principals look absent. It may be used concurrently.
//
// A box is referred to by its id, its name, or a unique prefix of its id.
type Service interface { //nolint:interfacebloat // six small ones
	Boxes
	Executions
	Files
	Images
	Networks
	Secrets
}

// Boxes creates boxes and leads them through their lives.
type Boxes interface { //nolint:interfacebloat // a box's life has seven verbs
	// CreateBox persists a box and, unless told otherwise, starts it. If the
	// start fails the box is kept as Failed, and the error names it.
	//
	// Errors: AlreadyExists for a name in use, Config, Denied, Image, Engine,
	// Exhausted, Canceled (the box is kept and is Configured).
	CreateBox(ctx context.Context, req CreateRequest, report func(Progress)) (BoxInfo, error)

	// GetBox returns what is known of a box, its metrics and its executions.
	//
	// Errors: NotFound; InvalidArgument if a prefix is ambiguous.
	GetBox(ctx context.Context, ref string) (BoxDetails, error)

	// ListBoxes returns boxes in the order of their creation.
	ListBoxes(ctx context.Context, req ListRequest) (BoxPage, error)

	// StartBox starts a box; starting a running box does nothing.
	StartBox(ctx context.Context, ref string, report func(Progress)) (BoxInfo, error)

	// StopBox ends a box's processes and its machine and keeps its disk;
	// stopping a stopped box does nothing. A box with AutoRemove is removed.
	StopBox(ctx context.Context, ref string) (BoxInfo, error)

	// UpdateBox changes a box, whatever state it is in. A principal may narrow
	// what a box reaches, and the operator may replace it; connections that are
	// not allowed any more end before it returns.
	//
	// Errors: NotFound; Config; Denied for a network that is not within the one
	// that the box has; InvalidState for a network in a box without one.
	UpdateBox(ctx context.Context, ref string, req UpdateRequest) (BoxInfo, error)

	// RemoveBox deletes a box and its disk.
	//
	// Errors: NotFound; InvalidState if it is active and force is false.
	RemoveBox(ctx context.Context, ref string, force bool) (BoxInfo, error)
}

// Executions runs commands. An execution outlives the connection that started
// it; its output stays readable by offset until its box is removed or the
// output is evicted by that of many later executions.
type Executions interface { //nolint:interfacebloat // so has a command's
	// Run starts a command, starting the box where that is needed, and returns
	// as soon as it runs.
	//
	// Errors: NotFound, InvalidArgument, InvalidState if the box is paused or,
	// with cmd.IfRunning, not running, Run if the program cannot be run, those
	// of StartBox.
	Run(ctx context.Context, box string, cmd Command, report func(Progress)) (ExecInfo, error)

	// Output returns a piece of an execution's output, waiting as req says.
	// Every call is independent of every other.
	Output(ctx context.Context, id ExecutionID, req OutputRequest) (Output, error)

	// WriteStdin writes to the command's standard input, blocking while the
	// command does not read, and closes it after data if eof is set. It
	// returns how many bytes were taken.
	//
	// Errors: InvalidState if the input is closed or was never open.
	WriteStdin(ctx context.Context, id ExecutionID, data []byte, eof bool) (int, error)

	// Signal sends a signal to the command's process group.
	Signal(ctx context.Context, id ExecutionID, signal int) error

	// StopExec ends the command and everything it started: SIGTERM, then
	// SIGKILL after grace. It returns once all of it is gone.
	StopExec(ctx context.Context, id ExecutionID, grace time.Duration) (ExecInfo, error)

	// ResizeTTY sets the size of the command's terminal.
	ResizeTTY(ctx context.Context, id ExecutionID, rows, cols uint16) error
}

// Files moves bytes in and out of a running box, starting it where needed.
// Paths are absolute, inside the box, and resolved there.
type Files interface {
	// ReadFile returns at most limit bytes of a regular file from offset on.
	// A negative offset counts from the end.
	ReadFile(ctx context.Context, box, path string, offset int64, limit int) (FileData, error)

	// WriteFile replaces or extends a file, making parent directories.
	WriteFile(ctx context.Context, box string, req WriteFileRequest) (FileInfo, error)
}

// Images manages the image cache.
type Images interface {
	ListImages(ctx context.Context) ([]ImageInfo, error)
	// PullImage brings an image into the cache.
	//
	// Errors: Image, NotFound, Denied for a registry that is not configured.
	PullImage(ctx context.Context, ref string, report func(Progress)) (ImageInfo, error)
	// RemoveImage deletes an image from the cache.
	//
	// Errors: NotFound; InvalidState while boxes need it.
	RemoveImage(ctx context.Context, ref string) (ImageInfo, error)
}

// Networks says what boxes tried to reach.
type Networks interface {
	// NetworkLog returns records of a box, oldest first. It does not start it.
	NetworkLog(ctx context.Context, req NetworkLogRequest) (NetworkLog, error)
}

// Secrets are the keys that boxes may use without seeing them. No method
// returns a value.
type Secrets interface {
	// ListSecrets returns the secrets that may be used in boxes, by name.
	ListSecrets(ctx context.Context) ([]SecretInfo, error)

	// SetSecret keeps a secret, encrypted, in place of one of the same name.
	// Running boxes that use it send the new value from the next request on.
	//
	// Errors: Denied for anybody but the operator; Config for a name, hosts or a
	// value that cannot be.
	SetSecret(ctx context.Context, s Secret) (SecretInfo, error)

	// RemoveSecret forgets a secret. Running boxes do not send it any more.
	//
	// Errors: Denied for anybody but the operator; NotFound.
	RemoveSecret(ctx context.Context, name string) (SecretInfo, error)
}

// A CreateRequest asks for a box.
type CreateRequest struct {
	Name    string     `json:"name,omitempty"` // unique to the principal; "": none
	Options BoxOptions `json:"options"`
	NoStart bool       `json:"no_start,omitempty"`
	// IdleTimeout stops the box after this long without an execution or file
	// access; its disk is kept and the next execution resumes it. nil: 30
	// minutes; 0: never.
	IdleTimeout *Seconds `json:"idle_timeout_seconds,omitempty"`
	// TTL removes the box this long after its creation. 0: never.
	TTL Seconds `json:"ttl_seconds,omitempty"`
}

// An UpdateRequest changes a box. What is nil stays as it is.
type UpdateRequest struct {
	Network *NetworkSpec      `json:"network,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"` // to set; "" removes the label
}

// A ListRequest selects boxes.
type ListRequest struct {
	Status BoxStatus         `json:"status,omitempty"` // "": all
	Labels map[string]string `json:"labels,omitempty"` // all must match
	Limit  int               `json:"limit,omitempty"`  // 0: 20; at most 1000
	Cursor string            `json:"cursor,omitempty"` // from the last page
}

// A BoxPage is part of a list.
type BoxPage struct {
	Boxes  []BoxInfo `json:"boxes"`
	Total  int       `json:"total"`            // that match, on all pages
	Cursor string    `json:"cursor,omitempty"` // of the next page; "": this is the last
}

// BoxDetails is all that is known of a box.
type BoxDetails struct {
	BoxInfo
	Metrics    BoxMetrics `json:"metrics"`
	Executions []ExecInfo `json:"executions"` // oldest first
}

// FileData is a piece of a file.
type FileData struct {
	FileInfo
	Offset int64  `json:"offset"` // of the first byte of Data
	Data   []byte `json:"data"`
}

// A WriteFileRequest says what to write where.
type WriteFileRequest struct {
	Path   string `json:"path"`
	Data   []byte `json:"data"`
	Append bool   `json:"append,omitempty"`
	Mode   uint32 `json:"mode,omitempty"` // permission bits; 0: 0644, or as the file has
	User   string `json:"user,omitempty"` // owner, as in [Command]; "": the image's user
}
