package pages

// Operations is how the pipeline is doing for a tenant. Times are ms since the epoch, 0 if not known.
type Operations struct {
	Services []Service `json:"services"`
	Layers   []Layer   `json:"layers"`
	Coverage Coverage  `json:"coverage"`
	Ticks    []Tick    `json:"ticks"` // the newest first, at most 100
	Runs     []Run     `json:"runs"`  // the newest first
	Drift    []Drift   `json:"drift"`
	// MayPromote says whether the request's token allows it.
	MayPromote bool `json:"mayPromote"`
	// Missing names what could not be asked for, and why.
	Missing []string `json:"missing"`
	Now     int64    `json:"now"`
}

// Service is a process.
type Service struct {
	Name   string `json:"name"`
	Kind   string `json:"kind"` // its stages; empty: not known, or it has no partition
	Ready  bool   `json:"ready"`
	Reason string `json:"reason"` // why it is not
	Lag    int64  `json:"lag"`    // records of its partitions that it has still to handle; -1: not known
	Behind int64  `json:"behind"` // ms, of the partition that is the furthest behind
}

// Layer is how far a stream layer is.
type Layer struct {
	Name       string      `json:"name"`
	Active     bool        `json:"active"`
	Complete   int64       `json:"complete"`
	Partitions []Partition `json:"partitions"`
	HeldBy     string      `json:"heldBy"` // what its watermark waits for
}

// Partition is how far one partition of the metrics topic is.
type Partition struct {
	Partition int32 `json:"partition"`
	Closed    int64 `json:"closed"`
}

// Coverage is what the batch has finished, and what waits for it.
type Coverage struct {
	Before    int64    `json:"before"`
	Twice     int64    `json:"twice"`   // sessions with late beacons in the last window: they may count on both sides of its end (SPEC 9)
	Windows   []Window `json:"windows"` // the newest first
	Waiting   int64    `json:"waiting"` // late beacons
	WaitingIn int      `json:"waitingIn"`
	Since     int64    `json:"since"`
	Due       int64    `json:"due"`
}

// Window is a covered window.
type Window struct {
	From        int64 `json:"from"`
	To          int64 `json:"to"`
	Generation  int64 `json:"generation"`
	Records     int64 `json:"records"`
	Late        int64 `json:"late"`
	Conflicts   int64 `json:"conflicts"` // beacons that carried another variation than their session's (SPEC 4), of all experiments
	Approximate bool  `json:"approximate"`
}

// Tick is one of a shard or an aggregate.
type Tick struct {
	Stage     string             `json:"stage"`
	Partition int32              `json:"partition"`
	At        int64              `json:"at"`
	Watermark int64              `json:"watermark"`
	Rows      int64              `json:"rows"`
	Seconds   map[string]float64 `json:"seconds"` // by phase
}

// Run is a plan that the batch has run. Durations are ms, those of map and reduce sums over tasks.
type Run struct {
	Generation int64  `json:"generation"`
	Began      int64  `json:"began"`
	Took       int64  `json:"took"`
	Windows    int    `json:"windows"`
	First      int64  `json:"first"`
	Last       int64  `json:"last"`
	Beacons    int64  `json:"beacons"`
	Sessions   int64  `json:"sessions"`
	Late       int64  `json:"late"`
	Conflicts  int64  `json:"conflicts"` // as of Window
	Plan       int64  `json:"plan"`
	Map        int64  `json:"map"`
	Reduce     int64  `json:"reduce"`
	Slowest    string `json:"slowest"`
}

// Drift is a metric of the stream against the batch, over windows that both have.
type Drift struct {
	Metric string `json:"metric"`
	Stream int64  `json:"stream"`
	Batch  int64  `json:"batch"`
}
