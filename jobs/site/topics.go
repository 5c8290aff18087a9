package site

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"tandem/schemas/wire"
	"tandem/stream/broker"
)

// Topic is a topic of the site as it must be.
type Topic struct {
	Name       string
	Use        string // "raw live", "raw mirror", "raw history", "beacons", "dead" or "metrics"
	Partitions int32
	Config     map[string]string // settings that are set; others are the cluster's own
}

const (
	timeType   = "message.timestamp.type"
	appendTime = "LogAppendTime"
	createTime = "CreateTime"
	policy     = "cleanup.policy"
	// unclean and ahead may be unknown to the cluster (the embedded broker has neither setting), and then need none.
	unclean = "unclean.leader.election.enable"
	ahead   = "message.timestamp.after.max.ms"

	weekMS   = "604800000"
	forever  = "-1"
	anyBytes = "-1"
	anyTime  = "9223372036854775807"
)

// Topics are the topics of the site, with the metrics topic of this layer. Nothing in them is forgotten for 7 days of
// record time, however much it is; where records of the past come in it never is, as they would be forgotten at once.
func (s *Site) Topics(layer string) []Topic {
	keep := weekMS
	if s.History() {
		keep = forever
	}
	insync := "1"
	if s.Kafka.Replication >= 3 {
		insync = "2"
	}
	config := func(time, retention string, message int) map[string]string {
		return map[string]string{timeType: time, "retention.ms": retention, "retention.bytes": anyBytes, "max.message.bytes": strconv.Itoa(message),
			policy: "delete", "min.insync.replicas": insync, unclean: "false"}
	}
	var all []Topic
	for _, r := range s.Raw {
		time, retention := createTime, weekMS
		switch r.Kind {
		case wire.KindLive:
			time = appendTime
		case wire.KindHistory:
			retention = forever
		}
		all = append(all, Topic{r.Topic, "raw " + r.Kind, r.Partitions, config(time, retention, broker.MaxRawMessage)})
	}
	written := config(createTime, keep, broker.MaxMessage)
	// A raw broker whose clock is ahead has its beacons' times taken as they are: refused, dispatch would try them for ever.
	written[ahead] = anyTime
	for _, t := range s.Tenants {
		for g := range t.Groups {
			all = append(all, Topic{s.BeaconsTopic(t.Chain.Tenant, g), "beacons", t.Partitions, maps.Clone(written)})
		}
	}
	return append(all, Topic{s.Dead, "dead", 1, maps.Clone(written)},
		Topic{s.MetricsTopic(layer), "metrics", s.Metrics.Partitions, maps.Clone(written)})
}

// Initial are the settings to make the topic with; Changes then tells of what is left.
func (t *Topic) Initial() map[string]string {
	c := maps.Clone(t.Config)
	delete(c, unclean)
	delete(c, ahead)
	return c
}

// Changes are the settings in which the topic is not as it must be; none if its settings are not known.
func (t *Topic) Changes(is broker.Topic) map[string]string {
	changes := map[string]string{}
	for k, want := range t.Config {
		if have, ok := is.Config[k]; is.Config != nil && have != want && (ok || k != unclean && k != ahead) {
			changes[k] = want
		}
	}
	return changes
}

// Loses says why no service may work on the topic as it is set now, which Changes sets right.
func (t *Topic) Loses(is broker.Topic) error {
	if have := is.Config[policy]; strings.Contains(have, "compact") {
		return fmt.Errorf("topic %s has %s %s: of the records with one key Kafka drops all but the last, read or not; tandem topics apply sets %s",
			t.Name, policy, have, t.Config[policy])
	}
	return nil
}

// Check says what of the topic is wrong and cannot be set right. empty is whether it holds no record.
func (t *Topic) Check(is broker.Topic, replication int16, empty bool) error {
	var errs []error
	if is.Partitions != t.Partitions {
		errs = append(errs, fmt.Errorf("topic %s has %d partitions, the site file says %d: the number of a topic never changes; a topic with another number needs another name", t.Name, is.Partitions, t.Partitions))
	}
	if is.Replicas < int(replication) {
		errs = append(errs, fmt.Errorf("topic %s has %d replicas, the site file says %d: give it more with kafka-reassign-partitions, or set kafka.replication", t.Name, is.Replicas, replication))
	}
	if want := t.Changes(is)[timeType]; want != "" && !empty {
		errs = append(errs, fmt.Errorf("topic %s has %s %s and holds records; as %s it needs %s, and the times of those would mean something else: use a new topic", t.Name, timeType, is.Config[timeType], t.Use, want))
	}
	return errors.Join(errs...)
}

// Sources are the partitions of the raw topics, in the order of the file. The topic id is empty where the cluster has no
// such topic.
func (s *Site) Sources(found map[string]broker.Topic) []wire.Source {
	var list []wire.Source
	for _, r := range s.Raw {
		for p := range r.Partitions {
			list = append(list, wire.Source{Cluster: r.Cluster, Topic: r.Topic, TopicID: found[r.Topic].ID, Partition: p, Kind: r.Kind})
		}
	}
	return slices.Clip(list)
}
