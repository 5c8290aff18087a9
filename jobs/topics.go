package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"tandem/jobs/site"
	"tandem/schemas/blob"
	"tandem/schemas/sources"
	"tandem/stream/broker"
)

const topicsUsage = `usage: tandem topics show|apply --site SITE.yaml [--layer NAME]

The site's topics: raw, beacons of each tenant and group, dead letters, and metrics of the layer. show tells what there is
and what apply would do. apply makes those that are missing, sets their settings (who gives a record its time, how far that may
be ahead, retention by time and none by size, no compaction, max.message.bytes, min.insync.replicas, no unclean election) and
adds new raw partitions to the chain of sources in the blob storage, which dispatch reads. It may be repeated.

Nothing is changed, and the exit code is 1, if a topic has another number of partitions or too few replicas, if it holds
records whose times mean something else, or if a raw topic of the chain is gone or was made anew.

example:
  tandem topics apply --site site.yaml

`

// topicsTimeout bounds the conversation with Kafka.
const topicsTimeout = time.Minute

// runTopics is `tandem topics`.
func runTopics(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("topics", flag.ContinueOnError)
	file := flags.String("site", "", "site `file`; required")
	layer := flags.String("layer", "", "`layer` of the metrics topic; stream.<dc> if absent")
	rest, code, over := parse(flags, topicsUsage, args, stderr)
	switch {
	case over:
		return code
	case len(rest) != 1 || rest[0] != "show" && rest[0] != "apply":
		return wrongUsage(stderr, "topics", "it needs one of show and apply")
	case *file == "":
		return wrongUsage(stderr, "topics", "--site is needed")
	}
	ctx, cancel := context.WithTimeout(ctx, topicsTimeout)
	defer cancel()
	s, err := site.Load(*file)
	if err != nil {
		return failed(stderr, "topics", err)
	}
	t, err := openTopics(s, *layer)
	if err != nil {
		return failed(stderr, "topics", err)
	}
	defer t.kafka.Close()
	if rest[0] == "apply" {
		err = t.apply(ctx)
	}
	if err == nil {
		err = t.show(ctx, stdout)
	}
	if err != nil {
		return failed(stderr, "topics", err)
	}
	return 0
}

type topicsJob struct {
	site   *site.Site
	topics []site.Topic
	kafka  *broker.Topics
	blobs  blob.Store
}

func openTopics(s *site.Site, layer string) (*topicsJob, error) {
	if layer == "" {
		layer = s.Layer()
	}
	blobs, err := s.OpenBlobs()
	if err != nil {
		return nil, err
	}
	to, err := s.Connection()
	if err != nil {
		return nil, err
	}
	kafka, err := broker.NewTopics(to)
	if err != nil {
		return nil, err
	}
	return &topicsJob{s, s.Topics(layer), kafka, blobs}, nil
}

// found describes those of the topics that are there.
func (j *topicsJob) found(ctx context.Context) (map[string]broker.Topic, error) {
	var names []string
	for _, t := range j.topics {
		names = append(names, t.Name)
	}
	found, err := j.kafka.Describe(ctx, names...)
	for _, name := range names {
		if is, ok := found[name]; ok && is.Config == nil && err == nil {
			err = fmt.Errorf("the user may not see the settings of topic %s; allow DescribeConfigs, and AlterConfigs for apply", name)
		}
	}
	return found, err
}

// faults is what stands in the way of apply.
func (j *topicsJob) faults(ctx context.Context, found map[string]broker.Topic) error {
	var errs []error
	for _, t := range j.topics {
		is, ok := found[t.Name]
		if !ok {
			continue
		}
		ends, err := j.kafka.Ends(ctx, t.Name)
		if err != nil {
			return err
		}
		last := int64(0)
		for _, end := range ends {
			last = max(last, end)
		}
		errs = append(errs, t.Check(is, j.site.Kafka.Replication, last == 0))
	}
	have, err := sources.Read(j.blobs, j.site.DC)
	if err == nil {
		_, err = sources.Added(&have, j.site.Sources(found))
	}
	return errors.Join(append(errs, err)...)
}

func (j *topicsJob) apply(ctx context.Context) error {
	found, err := j.found(ctx)
	if err != nil {
		return err
	}
	if err := j.faults(ctx, found); err != nil {
		return err
	}
	for _, t := range j.topics {
		if _, ok := found[t.Name]; ok {
			continue
		}
		_, err := j.kafka.Make(ctx, t.Name, t.Partitions, j.site.Kafka.Replication, t.Initial())
		if errors.Is(err, kerr.InvalidReplicationFactor) {
			return fmt.Errorf("%w It is to have %d replicas: kafka.replication of the site file", err, j.site.Kafka.Replication)
		}
		if err != nil {
			return err
		}
	}
	if found, err = j.await(ctx, nil); err != nil {
		return err
	}
	for _, t := range j.topics {
		if changes := t.Changes(found[t.Name]); len(changes) > 0 {
			if err := j.kafka.Set(ctx, t.Name, changes); err != nil {
				return err
			}
		}
	}
	if found, err = j.await(ctx, func(t *site.Topic, is broker.Topic) bool { return len(t.Changes(is)) == 0 }); err != nil {
		return err
	}
	_, err = sources.Append(j.blobs, j.site.DC, j.site.Sources(found))
	return err
}

// await describes the topics once all are there and done: a broker may not have heard yet of what another was told.
func (j *topicsJob) await(ctx context.Context, done func(*site.Topic, broker.Topic) bool) (map[string]broker.Topic, error) {
	for {
		found, err := j.found(ctx)
		if err != nil {
			return nil, err
		}
		waits := slices.IndexFunc(j.topics, func(t site.Topic) bool {
			is, ok := found[t.Name]
			return !ok || done != nil && !done(&t, is)
		})
		if waits < 0 {
			return found, nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("topic %s was told its settings and does not show them: %w", j.topics[waits].Name, ctx.Err())
		}
	}
}

func (j *topicsJob) show(ctx context.Context, stdout io.Writer) error {
	found, err := j.found(ctx)
	if err != nil {
		return err
	}
	out := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprint(out, "TOPIC\tUSE\tPARTITIONS\tREPLICAS\tTIME\tID\n")
	for _, t := range j.topics {
		is, ok := found[t.Name]
		if !ok {
			fmt.Fprintf(out, "%s\t%s\t%d\t%d\t\t(missing)\n", t.Name, t.Use, t.Partitions, j.site.Kafka.Replication)
			continue
		}
		fmt.Fprintf(out, "%s\t%s\t%d\t%d\t%s\t%s\n", t.Name, t.Use, is.Partitions, is.Replicas, is.Config["message.timestamp.type"], is.ID)
	}
	if err := out.Flush(); err != nil {
		return err
	}
	for _, t := range j.topics {
		is, ok := found[t.Name]
		if !ok {
			continue
		}
		changes := t.Changes(is)
		for _, k := range slices.Sorted(maps.Keys(changes)) {
			fmt.Fprintf(stdout, "%s: %s is %q, apply sets %q\n", t.Name, k, is.Config[k], changes[k])
		}
	}
	have, err := sources.Read(j.blobs, j.site.DC)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "sources: revision %d, %s\n", have.Revision, count(len(have.List), "partition"))
	if fresh, err := sources.Added(&have, j.site.Sources(found)); err == nil && len(fresh) > 0 {
		fmt.Fprintf(stdout, "sources: apply adds %s\n", count(len(fresh), "partition"))
	}
	return j.faults(ctx, found)
}
