package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"tandem/jobs/site"
	"tandem/schemas/store"
	"tandem/schemas/store/cassandra"
	"tandem/stream/failover"
)

const failoverUsage = `usage: tandem failover show --site SITE.yaml [--tenant T] [--layers L,...]
       tandem failover promote LAYER --site SITE.yaml [--tenant T] [--lag 5m] [--wait 1m] [--force]
       tandem failover auto --site SITE.yaml [--tenant T] [--layers L,...] [--lag 5m] [--for 3] [--every 10s] [--hold-off 10m] [--dry-run]

Which data centre's layer readers of a tenant see. All speak through the metric store: they work in any data centre, also
with the others gone.

show tells, for each tenant and layer, how many partitions of the metrics topic have been heard, before which minute the
layer is complete, how many minutes of that a standby still holds, how far it is behind now, and which one is active.

promote makes LAYER the active one, of all tenants of the site or of one. It has stage 2 of that layer write what it holds,
waits until all its partitions have (--wait), and only then changes what readers see. It refuses a layer that is more than
--lag behind the active one or does not answer, and to promote while nodes of Cassandra that are there have not got all writes (hints);
--force promotes it all the same. A reader follows with its next request.

auto is a service: it looks --every so often, and promotes another layer when the active one has been --lag or more behind
it --for times in a row, but not within --hold-off of the last change, whoever made it. It chooses between the site's own
layer and the active one, so let it run in every data centre; --layers names others. With --dry-run it only says what it
would do.

LAYER must have as many metrics partitions as this site's.

example:
  tandem failover promote stream.dc2 --site site.yaml --tenant shop

`

// runFailover is `tandem failover`.
func runFailover(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("failover", flag.ContinueOnError)
	file := flags.String("site", "", "site `file`; required")
	name := flags.String("tenant", "", "only this `tenant`")
	layers := flags.String("layers", "", "`layers` to look at, by commas; the site's own and the active one if absent")
	lag := flags.Duration("lag", 5*time.Minute, "full minutes: promote: that LAYER may be behind; auto: from which on the active layer is behind")
	wait := flags.Duration("wait", time.Minute, "how long stage 2 may take to write what it holds")
	force := flags.Bool("force", false, "promote a layer that is behind or does not answer")
	times := flags.Int("for", 3, "looks in a row at which the active layer must be behind")
	every := flags.Duration("every", 10*time.Second, "time between looks")
	holdOff := flags.Duration("hold-off", 10*time.Minute, "time after a change without another")
	dry := flags.Bool("dry-run", false, "promote nothing, only say so")
	rest, code, over := parse(flags, failoverUsage, args, stderr)
	if over {
		return code
	}
	what, arguments := "", map[string]int{"show": 1, "promote": 2, "auto": 1}
	if len(rest) > 0 {
		what = rest[0]
	}
	switch {
	case arguments[what] == 0:
		return wrongUsage(stderr, "failover", "it needs one of show, promote and auto")
	case len(rest) != arguments[what] && what == "promote":
		return wrongUsage(stderr, "failover", "promote needs one LAYER")
	case len(rest) != arguments[what]:
		return wrongUsage(stderr, "failover", "unexpected argument %q", rest[1])
	case *file == "":
		return wrongUsage(stderr, "failover", "--site is needed")
	case *lag < 0 || *lag%time.Minute != 0 || what == "auto" && *lag == 0:
		return wrongUsage(stderr, "failover", "--lag %s is not a number of full minutes", *lag)
	case *times < 1 || *times > 10_000 || *every < time.Second || *every > time.Hour || *holdOff < 0 || *wait <= 0:
		return wrongUsage(stderr, "failover", "--for must be 1 to 10000, --every 1s to 1h, --hold-off not below 0 and --wait above it")
	}
	s, err := site.Load(*file)
	if err != nil {
		return failed(stderr, "failover", err)
	}
	j := &failoverJob{own: s.Layer(), partitions: int(s.Metrics.Partitions), lag: int64(*lag / time.Minute), wait: *wait, force: *force,
		log: slog.New(slog.NewTextHandler(stderr, nil)), now: time.Now}
	for i := range s.Tenants {
		if t := s.Tenants[i].Chain.Tenant; *name == "" || *name == t {
			j.tenants = append(j.tenants, t)
		}
	}
	if len(j.tenants) == 0 {
		return failed(stderr, "failover", fmt.Errorf("%s has no tenant %q", *file, *name))
	}
	if *layers != "" {
		j.layers = strings.Split(*layers, ",")
	}
	for _, l := range append(slices.Clone(j.layers), rest[1:]...) {
		if !strings.HasPrefix(l, "stream.") || l == "stream." {
			return wrongUsage(stderr, "failover", "%q is no layer of a stream: stream.NAME", l)
		}
	}
	if j.store, err = s.OpenStore(ctx); err != nil && what == "auto" {
		return notBegun(ctx, stderr, "failover", err)
	} else if err != nil {
		return failed(stderr, "failover", err)
	}
	defer j.store.Close()
	switch what {
	case "show":
		err = j.show(ctx, stdout)
	case "promote":
		err = j.promote(ctx, rest[1])
	case "auto":
		policy := failover.Policy{Lag: j.lag, For: *times, HoldOffMS: holdOff.Milliseconds()}
		return ended(stderr, "failover", j.auto(ctx, policy, *every, *dry))
	}
	if err != nil {
		return failed(stderr, "failover", err)
	}
	return 0
}

type failoverJob struct {
	store      store.Store
	tenants    []string
	own        string   // layer of the site
	layers     []string // none: its own and the active one
	partitions int      // of the metrics topic of each layer
	lag        int64    // minutes
	wait       time.Duration
	force      bool
	log        *slog.Logger
	now        func() time.Time
}

// observe looks at the layers of a tenant.
func (j *failoverJob) observe(ctx context.Context, tenant string) (o failover.Observed, err error) {
	o.NowMS = j.now().UnixMilli()
	if o.Active, _, err = j.store.Active(ctx, tenant); err != nil {
		return o, fmt.Errorf("active layer of %s: %w", tenant, err)
	}
	names := j.layers
	if len(names) == 0 {
		names = []string{j.own}
	}
	if active := o.Active.Layer; active != "" && !slices.Contains(names, active) {
		names = append(names[:len(names):len(names)], active)
	}
	for _, name := range names {
		l, err := failover.Look(ctx, j.store, tenant, name, j.partitions)
		if err != nil {
			return o, err
		}
		o.Layers = append(o.Layers, l)
	}
	return o, nil
}

func (j *failoverJob) show(ctx context.Context, out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TENANT\tLAYER\tPARTITIONS\tCOMPLETE BEFORE\tHELD\tBEHIND NOW\tACTIVE")
	for _, tenant := range j.tenants {
		o, err := j.observe(ctx, tenant)
		if err != nil {
			return err
		}
		for _, l := range o.Layers {
			held, behind, active := "-", "-", ""
			if l.Complete > 0 {
				held, behind = fmt.Sprintf("%d min", l.Complete-l.Written), fmt.Sprintf("%d min", o.NowMS/60000-l.Complete)
			}
			if l.Complete > 0 && l.Written == 0 {
				held = "all"
			}
			if l.Name == o.Active.Layer {
				active = fmt.Sprintf("active, sequence %d", o.Active.Seq)
			}
			fmt.Fprintf(w, "%s\t%s\t%d of %d\t%s\t%s\t%s\t%s\n", tenant, l.Name, l.Heard, j.partitions, failover.Clock(l.Complete), held, behind, active)
		}
	}
	return w.Flush()
}

// promote makes a layer the active one of all tenants; what fails with one does not keep it from the others.
func (j *failoverJob) promote(ctx context.Context, layer string) error {
	if err := j.delivered(ctx); err != nil {
		return err
	}
	var wrong []error
	for _, tenant := range j.tenants {
		wrong = append(wrong, j.change(ctx, tenant, layer, "asked for"))
	}
	return errors.Join(wrong...)
}

// hinted is a store whose nodes keep writes for nodes that are away.
type hinted interface {
	Hints(ctx context.Context) (hints []cassandra.Hint, silent []error, err error)
}

// delivered refuses a change while a node that is there again has not got all that was written without it: readers there would see
// minutes as closed whose rows are still on their way. What waits for nodes that are away is no reason: a change is made for that.
func (j *failoverJob) delivered(ctx context.Context) error {
	st, ok := j.store.(hinted)
	if !ok {
		return nil
	}
	hints, silent, err := st.Hints(ctx)
	if err != nil {
		return fmt.Errorf("hints: %w", err)
	}
	for _, err := range silent {
		j.log.Warn("a node does not say whether it keeps writes for others (hints)", "err", err)
	}
	for _, h := range hints {
		switch {
		case !h.Up:
		case j.force:
			j.log.Warn("writes are still on their way between nodes", "from", h.At, "to", h.For, "data_centre", h.DC, "files", h.Files, "oldest", h.Oldest.UTC())
		default:
			return fmt.Errorf("node %s keeps %s of hints for %s in %s, the oldest of %s: until they are delivered (nodetool listpendinghints) readers there "+
				"may miss rows of minutes that count as closed; wait, or --force", h.At, count(h.Files, "file"), h.For, h.DC, h.Oldest.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// change promotes a layer of a tenant and logs it.
func (j *failoverJob) change(ctx context.Context, tenant, layer, why string) error {
	before, after, err := failover.Promote(ctx, j.store, failover.Change{Tenant: tenant, Layer: layer, Partitions: j.partitions, Lag: j.lag,
		Force: j.force, Wait: j.wait, Now: j.now})
	switch {
	case err != nil:
		return fmt.Errorf("tenant %s: %w", tenant, err)
	case before == after:
		j.log.Info("it is the active layer already", "tenant", tenant, "layer", layer, "sequence", before.Seq)
	default:
		j.log.Info("promoted", "tenant", tenant, "from", before.Layer, "to", after.Layer, "from_sequence", before.Seq, "to_sequence", after.Seq, "why", why)
	}
	return nil
}

// auto looks and decides until the context ends. A look or a change that fails is logged, and counting begins anew.
func (j *failoverJob) auto(ctx context.Context, policy failover.Policy, every time.Duration, dry bool) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	memory := map[string]failover.Memory{}
	for {
		for _, tenant := range j.tenants {
			if err := j.decide(ctx, policy, memory, tenant, dry); err != nil && ctx.Err() == nil {
				delete(memory, tenant)
				j.log.Warn("nothing is promoted for now", "tenant", tenant, "err", err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (j *failoverJob) decide(ctx context.Context, policy failover.Policy, memory map[string]failover.Memory, tenant string, dry bool) error {
	o, err := j.observe(ctx, tenant)
	if err != nil {
		return err
	}
	var layer string
	if memory[tenant], layer = failover.Decide(policy, memory[tenant], o); layer == "" {
		return nil
	}
	var far []string
	for _, l := range o.Layers {
		far = append(far, l.Name+" is complete before "+failover.Clock(l.Complete))
	}
	why := strings.Join(far, ", ")
	if dry {
		j.log.Info("would promote", "tenant", tenant, "from", o.Active.Layer, "to", layer, "why", why)
		return nil
	}
	return j.change(ctx, tenant, layer, why)
}
