package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Membership says as whom a process takes part in a group.
type Membership struct {
	Group, Instance string
	Topics          []string
	// SessionTimeout is how long a member that is silent keeps its partitions: longer than a restart takes.
	SessionTimeout time.Duration
	// Assigned is told of partitions to work on, of none too where there are none left for this member, Released of those
	// that it is to let go: when it returns, others may have them. Lost says that others may have them already. They are
	// called one after another.
	Assigned func([]Partition)
	Released func(parts []Partition, lost bool)
}

// Group is a membership: it only shares partitions out among the members, by cooperative-sticky with static ids. It
// reads nothing: where to read from, the owner of a partition knows (Feed).
type Group struct {
	client *kgo.Client
	admin  *kadm.Client
	name   string
}

// Join takes part until Close.
func Join(to Connection, m Membership) (*Group, error) {
	c, err := to.open(
		kgo.ConsumerGroup(m.Group),
		kgo.InstanceID(m.Instance),
		kgo.ConsumeTopics(m.Topics...),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.SessionTimeout(m.SessionTimeout),
		kgo.HeartbeatInterval(min(3*time.Second, m.SessionTimeout/4)),
		kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()),
		kgo.FetchMaxBytes(1), // nothing is to be read here: between joining and the pause below at most a record is
		kgo.OnPartitionsAssigned(func(_ context.Context, c *kgo.Client, parts map[string][]int32) {
			if len(parts) > 0 {
				c.PauseFetchPartitions(parts)
			}
			m.Assigned(partitions(parts))
		}),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, parts map[string][]int32) {
			if len(parts) > 0 {
				m.Released(partitions(parts), false)
			}
		}),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, parts map[string][]int32) {
			if len(parts) > 0 {
				m.Released(partitions(parts), true)
			}
		}),
	)
	if err != nil {
		return nil, err
	}
	c.PauseFetchTopics(m.Topics...)
	return &Group{c, kadm.NewClient(c), m.Group}, nil
}

func partitions(m map[string][]int32) []Partition {
	var parts []Partition
	for topic, ps := range m {
		for _, p := range ps {
			parts = append(parts, Partition{topic, p})
		}
	}
	return parts
}

// Committed is what a group remembers of a partition.
type Committed struct {
	Offset int64
	Note   string // what a reader must know of the records before the offset; it may be empty, and brokers take 4,096 bytes
}

// ErrNoteTooLarge is wrapped when a broker is set to take shorter notes than one of a commit (offset.metadata.max.bytes).
var ErrNoteTooLarge = kerr.OffsetMetadataTooLarge

// Committed returns what the group has committed of a partition, and whether anything.
func (g *Group) Committed(ctx context.Context, p Partition) (Committed, bool, error) {
	return committed(ctx, g.admin, g.name, p)
}

func committed(ctx context.Context, admin *kadm.Client, group string, p Partition) (Committed, bool, error) {
	all, err := admin.FetchOffsetsForTopics(ctx, group, p.Topic)
	if err != nil {
		return Committed{}, false, fmt.Errorf("kafka: offsets of group %s: %w", group, err)
	}
	o, ok := all.Lookup(p.Topic, p.Partition)
	if !ok {
		return Committed{}, false, nil
	}
	if o.Err != nil {
		return Committed{}, false, fmt.Errorf("kafka: offset of group %s, %s/%d: %w", group, p.Topic, p.Partition, o.Err)
	}
	if o.At < 0 {
		return Committed{}, false, nil
	}
	return Committed{o.At, o.Metadata}, true, nil
}

// Commit commits offsets as this member: a member that has been replaced is refused.
func (g *Group) Commit(ctx context.Context, offsets map[Partition]Committed) error {
	m := map[string]map[int32]kgo.EpochOffset{}
	for p, c := range offsets {
		if m[p.Topic] == nil {
			m[p.Topic] = map[int32]kgo.EpochOffset{}
		}
		m[p.Topic][p.Partition] = kgo.EpochOffset{Epoch: -1, Offset: c.Offset}
	}
	ctx = kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
		for i := range req.Topics {
			t := &req.Topics[i]
			for k := range t.Partitions {
				note := offsets[Partition{t.Topic, t.Partitions[k].Partition}].Note
				t.Partitions[k].Metadata = &note
			}
		}
		return nil
	})
	var failed error
	g.client.CommitOffsetsSync(ctx, m, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		if err != nil {
			failed = err
			return
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				failed = errors.Join(failed, errorOf(p.ErrorCode))
			}
		}
	})
	if failed != nil {
		return fmt.Errorf("kafka: commit of group %s: %w", g.name, failed)
	}
	return nil
}

// Close ends the membership. The partitions stay with the instance until its session times out, so that it may come back.
func (g *Group) Close() { g.client.CloseAllowingRebalance() }

// Offsets commits and reads offsets of a group without being its member: for a process whose partitions are given by
// hand, outside of any sharing out.
type Offsets struct {
	client *kgo.Client
	admin  *kadm.Client
	group  string
}

// NewOffsets connects.
func NewOffsets(to Connection, group string) (*Offsets, error) {
	c, err := to.open()
	if err != nil {
		return nil, err
	}
	return &Offsets{c, kadm.NewClient(c), group}, nil
}

// Committed returns what the group has committed of a partition, and whether anything.
func (o *Offsets) Committed(ctx context.Context, p Partition) (Committed, bool, error) {
	return committed(ctx, o.admin, o.group, p)
}

// Commit commits nothing while the group has members: they do.
func (o *Offsets) Commit(ctx context.Context, offsets map[Partition]Committed) error {
	all := kadm.Offsets{}
	for p, c := range offsets {
		all.Add(kadm.Offset{Topic: p.Topic, Partition: p.Partition, At: c.Offset, LeaderEpoch: -1, Metadata: c.Note})
	}
	resp, err := o.admin.CommitOffsets(ctx, o.group, all)
	if err == nil {
		err = resp.Error()
	}
	if err != nil && !errors.Is(err, kerr.UnknownMemberID) {
		return fmt.Errorf("kafka: commit of group %s: %w", o.group, err)
	}
	return nil
}

// Close ends the connection.
func (o *Offsets) Close() { o.client.Close() }

func errorOf(code int16) error {
	if code == 0 {
		return nil
	}
	return kerr.ErrorForCode(code)
}
