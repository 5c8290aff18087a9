package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"time"

	"tandem/batch"
	"tandem/core/tenant"
	"tandem/jobs/site"
	"tandem/schemas/archive"
	"tandem/schemas/blob"
	"tandem/stream/broker"
)

const archiveVerifyUsage = `usage: tandem archive verify --site SITE.yaml [--tenant T] [--kafka]

Reads the whole archive and checks it: that the manifests of each partition are a chain without gap or overlap, that
every event file is there with the size and the SHA-256 that its manifest says, in order, and that its rows are as many in each
window as the manifests count; that every topic of the site is archived, with as many partitions, and that no event file lies
behind the end of its chain, which would have lost manifests. With --kafka also that the topics are those that were archived, with as many partitions,
and that no manifest goes beyond a partition's end. A line on standard output for each problem names the object and the
way out; the exit code is then 1.

example:
  tandem archive verify --site site.yaml --kafka

`

// keptPartition is a partition of a tenant's topic in the archive.
type keptPartition struct {
	chain   *tenant.Chain
	spliced *tenant.Chain // by which the batch reads
	archive.Partitions
	partition int32
	fromRaw   bool // made by a backfill --from-raw: no topic of Kafka has it
}

// archiveFlags are those of the commands that look after the archive.
type archiveFlags struct {
	site, tenant string
	*flag.FlagSet
}

func newArchiveFlags(command string) *archiveFlags {
	f := &archiveFlags{FlagSet: flag.NewFlagSet("archive "+command, flag.ContinueOnError)}
	f.StringVar(&f.site, "site", "", "site `file`; required")
	f.StringVar(&f.tenant, "tenant", "", "only this `tenant`; all if absent")
	return f
}

// open parses the command line and finds what is archived. If over, the command is done and exits with code.
func (f *archiveFlags) open(usage string, args []string, stderr io.Writer) (s *site.Site, blobs blob.Store, all []keptPartition, code int, over bool) {
	rest, code, over := parse(f.FlagSet, usage, args, stderr)
	switch {
	case over:
		return nil, nil, nil, code, true
	case len(rest) > 0:
		return nil, nil, nil, wrongUsage(stderr, f.Name(), "unexpected argument %q", rest[0]), true
	case f.site == "":
		return nil, nil, nil, wrongUsage(stderr, f.Name(), "--site is needed"), true
	}
	s, blobs, err := site.Open(f.site)
	if err == nil {
		all, err = f.archived(s, blobs)
	}
	if err != nil {
		return nil, nil, nil, failed(stderr, f.Name(), err), true
	}
	return s, blobs, all, 0, false
}

func (f *archiveFlags) archived(s *site.Site, blobs blob.Store) (all []keptPartition, err error) {
	known := false
	for i := range s.Tenants {
		t := &s.Tenants[i]
		if f.tenant != "" && t.Chain.Tenant != f.tenant {
			continue
		}
		known = true
		for g := range t.Groups {
			p, err := archive.ReadPartitions(blobs, s.BeaconsTopic(t.Chain.Tenant, g))
			if errors.Is(err, blob.ErrNotFound) {
				continue // nobody archives it yet
			}
			if err != nil {
				return nil, err
			}
			for n := range p.Count {
				all = append(all, keptPartition{t.Chain, t.Spliced, p, n, false})
			}
		}
		brought, err := batch.ReadFromRaw(blobs, t.Chain.Tenant)
		if err != nil {
			return nil, err
		}
		for i := range brought {
			b := brought[i].Batched()
			all = append(all, keptPartition{t.Chain, t.Spliced, archive.Partitions{Topic: b.Name, TopicID: b.ID, Count: b.Partitions}, 0, true})
		}
	}
	if !known {
		return nil, fmt.Errorf("%s has no tenant %q", f.site, f.tenant)
	}
	return all, nil
}

// runArchiveVerify is `tandem archive verify`.
func runArchiveVerify(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := newArchiveFlags("verify")
	kafka := flags.Bool("kafka", false, "compare with the topics in Kafka")
	s, blobs, all, code, over := flags.open(archiveVerifyUsage, args, stderr)
	if over {
		return code
	}
	problems := 0
	problem := func(err error) {
		problems++
		fmt.Fprintln(stdout, err)
	}
	written, err := flags.compareSite(s, blobs, all, problem) // before any chain is read
	if err != nil {
		return failed(stderr, flags.Name(), err)
	}
	var sum archive.Verified
	progress := newPhaseProgress(stderr)
	ends := make([]int64, len(all)) // of the chains
	for i, a := range all {
		v, err := archive.Verify(ctx, blobs, a.Topic, a.partition, problem, func(archive.FileInfo) {
			sum.Files++
			progress.show("verifying", sum.Files, fmt.Sprintf("files, at %s/%d", a.Topic, a.partition))
		})
		if err != nil {
			progress.clear()
			return failed(stderr, flags.Name(), fmt.Errorf("%s/%d: %w", a.Topic, a.partition, err))
		}
		sum.Manifests += v.Manifests
		sum.Rows += v.Rows
		sum.Bytes += v.Bytes
		sum.Lost += v.Lost
		ends[i] = v.Next
		if name := written[a.chain.Tenant].Beyond(a.Topic, a.partition, v.Next); name != "" {
			problem(fmt.Errorf("event file %s lies behind the end of the chain of %s/%d, offset %d: manifests are gone; bring them back from a copy", name, a.Topic, a.partition, v.Next))
		}
	}
	progress.clear()
	if *kafka { // after the chains, which grow: a topic ends no earlier than what was archived of it
		topics, err := liveTopics(ctx, s, all)
		if err != nil {
			return failed(stderr, flags.Name(), err)
		}
		for i, a := range all {
			if !a.fromRaw {
				topics[a.Topic].compare(a, ends[i], problem)
			}
		}
	}
	fmt.Fprintf(stdout, "%s in %s, %d manifests: %d bytes in %s\n", count(int(sum.Rows), "beacon"), count(int(sum.Files), "file"), sum.Manifests, sum.Bytes, count(len(all), "partition"))
	if sum.Lost > 0 {
		fmt.Fprintf(stdout, "%s were never archived: Kafka had forgotten them when tandem archive --cold began\n", count(int(sum.Lost), "offset"))
	}
	if problems > 0 {
		return failed(stderr, flags.Name(), errors.New(count(problems, "problem")))
	}
	return 0
}

// compareSite compares what is archived with the topics of the site, and lists the event files of each tenant.
func (f *archiveFlags) compareSite(s *site.Site, blobs blob.Store, all []keptPartition, problem func(error)) (written map[string]archive.Listing, err error) {
	written = map[string]archive.Listing{}
	for i := range s.Tenants {
		t := &s.Tenants[i]
		tenant := t.Chain.Tenant
		if f.tenant != "" && tenant != f.tenant {
			continue
		}
		if written[tenant], err = archive.ListFiles(blobs, tenant); err != nil {
			return nil, err
		}
		for g := range t.Groups {
			topic := s.BeaconsTopic(tenant, g)
			switch k := slices.IndexFunc(all, func(a keptPartition) bool { return a.Topic == topic && !a.fromRaw }); {
			case k < 0 && written[tenant].Of(topic):
				problem(fmt.Errorf("topic %s has event files, but %s is gone: bring it and the manifests back from a copy", topic, archive.PartitionsName(topic)))
			case k < 0:
				problem(fmt.Errorf("topic %s is not archived in %s: is `blobs` of %s right, and does tandem archive run?", topic, s.Blobs, f.site))
			case all[k].Count != t.Partitions:
				problem(fmt.Errorf("topic %s has %d partitions in %s, the archive is of %d: their number never changes", topic, t.Partitions, f.site, all[k].Count))
			}
		}
	}
	return written, nil
}

// liveTopic is a topic as Kafka has it; without an id: not there.
type liveTopic struct {
	broker.Topic
	ends map[int32]int64
}

func liveTopics(ctx context.Context, s *site.Site, all []keptPartition) (map[string]liveTopic, error) {
	to, err := s.Connection()
	if err != nil {
		return nil, err
	}
	k, err := broker.NewTopics(to)
	if err != nil {
		return nil, err
	}
	defer k.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var names []string
	for _, a := range all {
		if !a.fromRaw {
			names = append(names, a.Topic)
		}
	}
	slices.Sort(names)
	found, err := k.Describe(ctx, slices.Compact(names)...)
	if err != nil {
		return nil, err
	}
	topics := map[string]liveTopic{}
	for name, t := range found {
		ends, err := k.Ends(ctx, name)
		if err != nil {
			return nil, err
		}
		topics[name] = liveTopic{t, ends}
	}
	return topics, nil
}

func (t liveTopic) compare(a keptPartition, next int64, problem func(error)) {
	switch end, ok := t.ends[a.partition]; {
	case t.ID == "":
		problem(fmt.Errorf("topic %s is archived and not in Kafka: what was not archived of it is lost", a.Topic))
	case t.ID != a.TopicID:
		problem(fmt.Errorf("topic %s has the id %s, the archive is of %s: it was made anew, and needs a new name", a.Topic, t.ID, a.TopicID))
	case t.Partitions != a.Count:
		problem(fmt.Errorf("topic %s has %d partitions, the archive is of %d: growth is a new topic", a.Topic, t.Partitions, a.Count))
	case !ok || end < next:
		problem(fmt.Errorf("topic %s/%d ends at offset %d, its archive at %d: the topic lost records, which the archive has; beacons that come now under these offsets are not archived, so the topic needs a new name", a.Topic, a.partition, end, next))
	}
}
