package simulate

import (
	"maps"
	"time"

	"tandem/core/oracle/worlds"
)

// shrinkFor bounds how long a shrink takes.
const shrinkFor = 60 * time.Second

// kinds are all kinds of faults.
var kinds = []string{"kill", "kill batch", "pause", "lose", "revoke", "retick", "write", "poll", "payload", "committed", "create", "get", "open", "list",
	"delete", "disk full", "store", "store read", "mirror again", "kill keeper"}

// shrink looks for a smaller run that fails alike: fewer faults and kinds of faults, smaller options, a smaller world.
func shrink(w worlds.World, opt options, fails func(worlds.World, options) bool) (worlds.World, options) {
	until := time.Now().Add(shrinkFor)
	try := func(change func(o *options)) bool {
		o := opt
		o.Off = maps.Clone(opt.Off)
		change(&o)
		if time.Now().After(until) || !fails(w, o) {
			return false
		}
		opt = o
		return true
	}
	if opt.Off == nil {
		opt.Off = map[string]bool{}
	}
	for _, kind := range kinds {
		try(func(o *options) { o.Off[kind] = true })
	}
	for _, change := range []func(o *options){
		func(o *options) { o.Tenants = 1 }, func(o *options) { o.Collect = false }, func(o *options) { o.Splice = false },
		func(o *options) { o.Audit = false }, func(o *options) { o.Cold = 0 }, func(o *options) { o.Rebuild = false }, func(o *options) { o.FromRaw = false }, func(o *options) { o.Slow = false }, func(o *options) { o.Compact = false }, func(o *options) { o.Back = false },
		func(o *options) { o.Silent = false }, func(o *options) { o.PatienceMS, o.Silent = 0, false }, func(o *options) { o.Rollout = false }, func(o *options) { o.Centres = 1 }, func(o *options) { o.Moves = false }, func(o *options) { o.Standby = false },
		func(o *options) { o.Retick = false }, func(o *options) { o.Doubled = false }, func(o *options) { o.Readers = 1 },
		func(o *options) { o.Readers = 0 }, func(o *options) { o.Batches = 1 }, func(o *options) { o.Batches = 0 }, func(o *options) { o.Processes = 1 },
		func(o *options) { o.Raw = 1 }, func(o *options) { o.Shards = 1 }, func(o *options) { o.Metrics = 1 }, func(o *options) { o.Ranges = 1 },
		func(o *options) { o.ArchiveRows = 1000 }, func(o *options) { o.CheckpointTicks = 1 }, func(o *options) { o.GateBytes = 512 << 20 },
	} {
		try(change)
	}
	for n := 64; n > 0; { // fewer faults: the last ones go first
		if !try(func(o *options) { o.Most = min(o.Most, n) }) {
			break
		}
		n /= 2
	}
	return worlds.Shrink(w, func(w worlds.World) bool { return time.Now().Before(until) && fails(w, opt) }), opt
}
