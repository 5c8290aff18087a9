package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"tandem/jobs/site"
	"tandem/schemas/sources"
	"tandem/schemas/wire"
	"tandem/stream/broker"
	"tandem/stream/service"
)

// serviceFlags are those that all always-on services have.
type serviceFlags struct {
	site, id, layer, listen, partitions string
	session, ready                      time.Duration
	opened                              time.Time // when check began to read the site
	*flag.FlagSet
}

func newServiceFlags(command string) *serviceFlags {
	f := &serviceFlags{FlagSet: flag.NewFlagSet(command, flag.ContinueOnError)}
	host, _ := os.Hostname() // none: --id is asked for
	f.StringVar(&f.site, "site", "", "site `file`; required")
	f.StringVar(&f.id, "id", host, "`name` of this process in its groups: its own, and the same after a restart")
	f.StringVar(&f.listen, "listen", "", "`address` of /healthz, /readyz, /metrics and /ticks, as 127.0.0.1:9101; none if absent")
	f.DurationVar(&f.ready, "ready-lag", 5*time.Minute, "/readyz says no while a partition lags for longer")
	f.DurationVar(&f.session, "session-timeout", 45*time.Second, "how long a process that is silent keeps its partitions: longer than a restart takes")
	f.StringVar(&f.partitions, "partitions", "", "`TOPIC/N,...` to work on, whoever else does, instead of what the group gives")
	return f
}

// check parses the command line, asks own what is wrong with the command's own flags, and then opens the site. If over, the command
// is done and exits with code.
func (f *serviceFlags) check(usage string, args []string, stderr io.Writer, own func() error) (s *site.Site, code int, over bool) {
	rest, code, over := parse(f.FlagSet, usage, args, stderr)
	switch {
	case over:
		return nil, code, true
	case len(rest) > 0:
		return nil, wrongUsage(stderr, f.Name(), "unexpected argument %q", rest[0]), true
	case f.site == "":
		return nil, wrongUsage(stderr, f.Name(), "--site is needed"), true
	case f.id == "":
		return nil, wrongUsage(stderr, f.Name(), "--id is needed"), true
	case f.session < time.Second || f.session > 30*time.Minute:
		return nil, wrongUsage(stderr, f.Name(), "--session-timeout %s is not in 1s to 30m", f.session), true
	case f.ready < time.Second || f.ready > 24*time.Hour:
		return nil, wrongUsage(stderr, f.Name(), "--ready-lag %s is not in 1s to 24h", f.ready), true
	}
	if err := own(); err != nil {
		return nil, wrongUsage(stderr, f.Name(), "%v", err), true
	}
	f.opened = time.Now()
	s, _, err := site.Open(f.site)
	if err != nil {
		return nil, failed(stderr, f.Name(), err), true
	}
	if f.layer == "" {
		f.layer = s.Layer()
	}
	return s, 0, false
}

// host is a host of partitions as a member of a group.
func (f *serviceFlags) host(to broker.Connection, group string, topics []string, log *slog.Logger) (*service.Host, error) {
	h := &service.Host{Connection: to, Group: group, Instance: f.id, Session: f.session, Topics: topics, Log: log.With("group", group)}
	if f.partitions == "" {
		return h, nil
	}
	for _, text := range strings.Split(f.partitions, ",") {
		topic, number, ok := strings.Cut(text, "/")
		n, err := strconv.ParseInt(number, 10, 32)
		if !ok || err != nil || n < 0 {
			return h, fmt.Errorf("--partitions: %q is no TOPIC/N", text)
		}
		for _, t := range topics {
			if t == topic {
				h.Fixed = append(h.Fixed, broker.Partition{Topic: topic, Partition: int32(n)})
			}
		}
	}
	if len(h.Fixed) == 0 {
		return h, fmt.Errorf("--partitions %s: none of these is of %s", f.partitions, strings.Join(topics, ", "))
	}
	return h, nil
}

// world is what a service finds: the topics of the site as the cluster has them.
type world struct {
	site  *site.Site
	to    broker.Connection
	found map[string]broker.Topic
	layer string
}

// findTimeout bounds how long a service waits at its start for Kafka to tell of its topics.
const findTimeout = time.Minute

// find asks Kafka for the site's topics and checks that they are as the services need them.
func find(ctx context.Context, s *site.Site, layer string, log *slog.Logger) (*world, error) {
	to, err := s.Connection()
	if err != nil {
		return nil, err
	}
	to.Log = log
	topics, err := broker.NewTopics(to)
	if err != nil {
		return nil, err
	}
	defer topics.Close()
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	all := s.Topics(layer)
	var names []string
	for _, t := range all {
		names = append(names, t.Name)
	}
	w := &world{site: s, to: to, layer: layer}
	for wait := 200 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		if w.found, err = topics.Describe(ctx, names...); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
	var wrong []error
	for _, t := range all {
		is, ok := w.found[t.Name]
		if !ok {
			wrong = append(wrong, fmt.Errorf("topic %s is not there", t.Name))
			continue
		}
		wrong = append(wrong, t.Check(is, 1, false), t.Loses(is))
		if is.Config == nil {
			log.Warn("the user may not see the settings of a topic (DescribeConfigs): that it keeps all records is not checked", "topic", t.Name)
		}
		changes := t.Changes(is)
		for _, k := range slices.Sorted(maps.Keys(changes)) {
			log.Warn("a topic is not set as it must be; tandem topics apply sets it", "topic", t.Name, "setting", k, "is", is.Config[k], "must_be", changes[k])
		}
	}
	if err := errors.Join(wrong...); err != nil {
		return nil, fmt.Errorf("%w; tandem topics show and apply tell more", err)
	}
	return w, nil
}

// beacons are the topics that dispatch writes to.
func (w *world) beacons() (topics []service.BeaconsTopic, names []string) {
	for i := range w.site.Tenants {
		t := &w.site.Tenants[i]
		for g := range t.Groups {
			name := w.site.BeaconsTopic(t.Chain.Tenant, g)
			topics = append(topics, service.BeaconsTopic{Name: name, ID: w.found[name].ID, Partitions: t.Partitions, Chain: t.Chain})
			names = append(names, name)
		}
	}
	return topics, names
}

// sources reads the newest list of sources.
func (w *world) sources() (func() (wire.Sources, error), error) {
	blobs, err := w.site.OpenBlobs()
	if err != nil {
		return nil, err
	}
	return func() (wire.Sources, error) { return sources.Read(blobs, w.site.DC) }, nil
}

// ended returns the exit code of a service that ran until err.
func ended(stderr io.Writer, command string, err error) int {
	if err != nil && !errors.Is(err, context.Canceled) {
		return failed(stderr, command, err)
	}
	return 0
}

// notBegun returns the exit code of a service that could not begin. To be stopped while it waits for a server is no failure,
// whatever it was just trying; follow may begin it again then.
func notBegun(ctx context.Context, stderr io.Writer, command string, err error) int {
	if ctx.Err() != nil {
		return 0
	}
	return failed(stderr, command, err)
}
