package broker

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Topics looks after topics.
type Topics struct {
	to     Connection
	client *kgo.Client
	admin  *kadm.Client
}

// Topic is a topic as the cluster has it.
type Topic struct {
	Name       string
	ID         string // as Kafka's own tools spell it
	Partitions int32
	Replicas   int               // the least of a partition
	Config     map[string]string // its settings, defaults included; nil if the user may not see them
}

// NewTopics connects.
func NewTopics(to Connection) (*Topics, error) {
	// By default it takes up to 5 s until a topic that was just made is seen.
	c, err := to.open(kgo.MetadataMinAge(50 * time.Millisecond))
	if err != nil {
		return nil, err
	}
	return &Topics{to, c, kadm.NewClient(c)}, nil
}

// Create makes a topic whose records never expire by time and carry the time that their writer gives, and returns its
// id. It is fine if the topic is there with as many partitions.
func (t *Topics) Create(ctx context.Context, name string, partitions int32) (id string, err error) {
	config := map[string]string{"retention.ms": "-1", "message.timestamp.type": "CreateTime", "max.message.bytes": strconv.Itoa(MaxMessage)}
	if _, err := t.Make(ctx, name, partitions, -1, config); err != nil {
		return "", err
	}
	d, err := t.made(ctx, name)
	if err != nil {
		return "", err
	}
	if d.Partitions != partitions {
		return "", fmt.Errorf("kafka: topic %s has %d partitions, not %d: the number of a topic never changes", name, d.Partitions, partitions)
	}
	return d.ID, nil
}

// madeTries is how often a broker is asked for a topic that was made: they hear of it one after another, and a busy one
// takes its time.
const (
	madeTries = 100
	madeWait  = 100 * time.Millisecond
)

// made waits until a topic that was made is there.
func (t *Topics) made(ctx context.Context, name string) (Topic, error) {
	for range madeTries {
		found, err := t.Describe(ctx, name)
		if err != nil {
			return Topic{}, err
		}
		if d, ok := found[name]; ok {
			return d, nil
		}
		select {
		case <-ctx.Done():
			return Topic{}, fmt.Errorf("kafka: topic %s: %w", name, ctx.Err())
		case <-time.After(madeWait):
		}
	}
	return Topic{}, fmt.Errorf("kafka: topic %s: it was made, and is not there", name)
}

// Make makes a topic with these settings, replicated so many times (-1: as the cluster's default says). A topic that is
// there stays as it is: made is false.
func (t *Topics) Make(ctx context.Context, name string, partitions int32, replicas int16, config map[string]string) (made bool, err error) {
	settings := map[string]*string{}
	for k, v := range config {
		settings[k] = &v
	}
	_, err = t.admin.CreateTopic(ctx, partitions, replicas, settings, name)
	if errors.Is(err, kerr.TopicAlreadyExists) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("kafka: create topic %s: %w", name, err)
	}
	return true, nil
}

// Describe returns those of the topics that are there, by name.
func (t *Topics) Describe(ctx context.Context, names ...string) (map[string]Topic, error) {
	list, err := t.admin.ListTopics(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("kafka: topics %s: %w", strings.Join(names, ", "), t.to.explain(err))
	}
	found := map[string]Topic{}
	for _, name := range names {
		d := list[name]
		if errors.Is(d.Err, kerr.UnknownTopicOrPartition) {
			continue
		}
		if d.Err != nil {
			return nil, fmt.Errorf("kafka: topic %s: %w", name, d.Err)
		}
		// kadm's String spells the id in an alphabet that names of objects do not admit.
		found[name] = Topic{Name: name, ID: base64.RawURLEncoding.EncodeToString(d.ID[:]), Partitions: int32(len(d.Partitions)),
			Replicas: replicas(d)}
	}
	configs, err := t.configs(ctx, slices.Sorted(maps.Keys(found)))
	if err != nil {
		return nil, err
	}
	for _, c := range configs {
		if errors.Is(c.Err, kerr.UnknownTopicOrPartition) {
			delete(found, c.Name) // it was just made, or deleted, and this broker hears of it otherwise than the one before
			continue
		}
		if c.Err != nil {
			return nil, fmt.Errorf("kafka: settings of topic %s: %w", c.Name, c.Err)
		}
		topic := found[c.Name]
		topic.Config = map[string]string{}
		for _, s := range c.Configs {
			topic.Config[s.Key] = s.MaybeValue()
		}
		found[c.Name] = topic
	}
	return found, nil
}

// configs are the settings of those of the topics whose settings the user may see.
func (t *Topics) configs(ctx context.Context, names []string) (kadm.ResourceConfigs, error) {
	all, err := t.admin.DescribeTopicConfigs(ctx, names...)
	if denied := (*kadm.AuthError)(nil); errors.As(err, &denied) {
		if len(names) == 1 {
			return nil, nil
		}
		// It does not say of which topic.
		all, err = nil, nil
		for i := 0; i < len(names) && err == nil; i++ {
			var one kadm.ResourceConfigs
			one, err = t.configs(ctx, names[i:i+1])
			all = append(all, one...)
		}
		return all, err
	}
	if err != nil {
		return nil, fmt.Errorf("kafka: settings of topics: %w", err)
	}
	return all, nil
}

// explain adds to the error of a first request what may be the cause, where the error does not say it.
func (c Connection) explain(err error) error {
	switch {
	case c.SASL != nil && errors.Is(err, io.EOF):
		return fmt.Errorf("%w: the broker closed the connection at the login by %s; is the user or the password wrong?", err, c.SASL.Name())
	case c.TLS != nil && errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w; do the brokers %s speak TLS?", err, strings.Join(c.Seeds, ", "))
	}
	return err
}

// replicas is the least of any partition: while partitions are moved they differ.
func replicas(d kadm.TopicDetail) int {
	least := math.MaxInt
	for _, p := range d.Partitions {
		least = min(least, len(p.Replicas))
	}
	return least
}

// Set changes settings of a topic, and leaves its others as they are.
func (t *Topics) Set(ctx context.Context, name string, config map[string]string) error {
	var changes []kadm.AlterConfig
	for k, v := range config {
		changes = append(changes, kadm.AlterConfig{Op: kadm.SetConfig, Name: k, Value: &v})
	}
	slices.SortFunc(changes, func(a, b kadm.AlterConfig) int { return strings.Compare(a.Name, b.Name) })
	done, err := t.admin.AlterTopicConfigs(ctx, changes, name)
	if err != nil {
		return fmt.Errorf("kafka: settings of topic %s: %w", name, err)
	}
	for _, r := range done {
		if r.Err != nil {
			return fmt.Errorf("kafka: settings of topic %s: %w: %s", name, r.Err, r.ErrMessage)
		}
	}
	return nil
}

// Ends returns the end offset of each partition of a topic.
func (t *Topics) Ends(ctx context.Context, name string) (map[int32]int64, error) {
	list, err := t.admin.ListEndOffsets(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("kafka: end offsets of %s: %w", name, err)
	}
	ends := map[int32]int64{}
	var first error
	list.Each(func(o kadm.ListedOffset) {
		if o.Err != nil && first == nil {
			first = fmt.Errorf("kafka: end offset of %s/%d: %w", name, o.Partition, o.Err)
		}
		ends[o.Partition] = o.Offset
	})
	return ends, first
}

// Refusing says of which partitions of the topics Kafka takes no records, and why: those without a leader, or with fewer
// replicas in sync than the topic asks for.
func (t *Topics) Refusing(ctx context.Context, names ...string) (why []string, err error) {
	list, err := t.admin.ListTopics(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("kafka: topics %s: %w", strings.Join(names, ", "), err)
	}
	configs, err := t.configs(ctx, names)
	if err != nil {
		return nil, err
	}
	needs := map[string]int{}
	for _, c := range configs {
		for _, s := range c.Configs {
			if s.Key == "min.insync.replicas" {
				needs[c.Name], _ = strconv.Atoi(s.MaybeValue()) // Kafka's own number; 0 asks for nothing
			}
		}
	}
	for _, d := range list.Sorted() {
		for _, p := range d.Partitions.Sorted() {
			switch {
			case p.Leader < 0:
				why = append(why, fmt.Sprintf("%s/%d has no leader", d.Topic, p.Partition))
			case len(p.ISR) < needs[d.Topic]:
				why = append(why, fmt.Sprintf("%s/%d has %d of %d replicas in sync and needs %d", d.Topic, p.Partition, len(p.ISR), len(p.Replicas), needs[d.Topic]))
			}
		}
	}
	return why, nil
}

// Close ends the connection.
func (t *Topics) Close() { t.client.Close() }
