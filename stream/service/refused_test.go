package service

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"tandem/stream/broker"

	"tandem/scripts/devstack"
)

// Kafka answers and takes nothing, as it does with too few replicas in sync. Who writes waits: that is told, excuses the
// waiting, and is over when it takes records again. A cancelled write ends at once, whatever the client may still hold.
func TestAKafkaThatTakesNothingIsWaitedFor(t *testing.T) {
	devstack.AtLength(t)
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, topic))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var refuses atomic.Bool
	refuses.Store(true)
	c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if !refuses.Load() {
			return nil, nil, false
		}
		req := r.(*kmsg.ProduceRequest)
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		for _, rt := range req.Topics {
			topic := kmsg.NewProduceResponseTopic()
			topic.Topic, topic.TopicID = rt.Topic, rt.TopicID
			for _, rp := range rt.Partitions {
				p := kmsg.NewProduceResponseTopicPartition()
				p.Partition, p.ErrorCode = rp.Partition, kerr.NotEnoughReplicas.Code
				topic.Partitions = append(topic.Partitions, p)
			}
			resp.Topics = append(resp.Topics, topic)
		}
		return resp, nil, true
	})
	to := broker.To(c.ListenAddrs()...)
	topics, err := broker.NewTopics(to)
	if err != nil {
		t.Fatal(err)
	}
	defer topics.Close()
	w, err := broker.NewWriter(to)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	h := host(to, "a", nil)
	h.writes(w)
	ctx := context.Background()
	if err, _ := h.refused(ctx, topics, 0); err != nil {
		t.Errorf("nothing is written, and it is told: %v", err)
	}

	short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	began := time.Now()
	if err := w.Write(short, []broker.Record{{Topic: topic, Value: []byte("a")}}); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 10*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	cancel()
	if _, waits := w.Waiting(); waits {
		t.Error("a write that has ended waits")
	}

	done := make(chan error, 1)
	began = time.Now()
	go func() { done <- w.Write(ctx, []broker.Record{{Topic: topic, Partition: 1, Value: []byte("b")}}) }()
	await(t, "it is told", func() bool {
		err, excuses := h.refused(ctx, topics, 200*time.Millisecond)
		if err != nil && (!excuses || !strings.Contains(err.Error(), topic)) {
			t.Fatalf("excuses %v: %v", excuses, err)
		}
		h.noteIf(err, excuses)
		return err != nil
	})
	if st := h.Status(); st.Kafka.Err == nil || st.Kafka.Failed.Before(began) {
		t.Errorf("%+v", st.Kafka)
	}
	h.turn.Store(began.Add(-time.Hour).UnixMilli()) // a loop that has waited for an hour
	if hung := h.Hung(time.Now(), time.Minute, time.Time{}); len(hung) > 0 {
		t.Errorf("whoever waits for Kafka is hung: %s", hung)
	}
	if err, _ := h.refused(ctx, topics, time.Hour); err != nil {
		t.Errorf("told before its time: %v", err)
	}
	select {
	case err := <-done:
		t.Errorf("the write ended: %v", err)
	default:
	}

	refuses.Store(false)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err, _ := h.refused(ctx, topics, 0); err != nil {
		t.Errorf("it takes records again, and is told not to: %v", err)
	}
}

// A client that has come to a stop excuses nobody, though what it writes is not taken.
func TestAStoppedClientExcusesNobody(t *testing.T) {
	h := host(broker.Connection{}, "a", nil)
	now := time.Now()
	h.note(errors.New("away"))
	away := h.Status().Kafka.Failed
	h.noteIf(errors.New("not taken"), false)
	if st := h.Status().Kafka; st.Err == nil || !st.Failed.Equal(away) {
		t.Errorf("%+v", st)
	}
	h.turn.Store(now.Add(-2 * time.Hour).UnixMilli())
	if hung := h.Hung(now.Add(time.Hour), time.Minute, time.Time{}); len(hung) != 1 {
		t.Errorf("hung: %q", hung)
	}
}

// A broker that takes shorter notes than one of a commit gets the commit without it.
func TestACommitWithoutItsNote(t *testing.T) {
	devstack.AtLength(t)
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close) // after the hosts
	var refused atomic.Int32
	c.ControlKey(int16(kmsg.OffsetCommit), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := r.(*kmsg.OffsetCommitRequest)
		resp := req.ResponseKind().(*kmsg.OffsetCommitResponse)
		long := false
		for _, rt := range req.Topics {
			topic := kmsg.NewOffsetCommitResponseTopic()
			topic.Topic, topic.TopicID = rt.Topic, rt.TopicID
			for _, rp := range rt.Partitions {
				p := kmsg.NewOffsetCommitResponseTopicPartition()
				p.Partition, p.ErrorCode = rp.Partition, kerr.OffsetMetadataTooLarge.Code
				topic.Partitions = append(topic.Partitions, p)
				long = long || rp.Metadata != nil && *rp.Metadata != ""
			}
			resp.Topics = append(resp.Topics, topic)
		}
		if long {
			refused.Add(1)
		}
		return resp, nil, long
	})
	to := broker.To(c.ListenAddrs()...)
	for name, fixed := range map[string][]broker.Partition{"a member": nil, "from outside": {{Topic: topic}}} {
		write(t, to, 0, 10, 1)
		refused.Store(0)
		h := host(to, "a", func(_ context.Context, s *Seat) (Owner, int64, error) {
			return ownerFunc(func(_ context.Context, recs []broker.Record) error {
				s.CommitTo(broker.Committed{Offset: recs[len(recs)-1].Offset + 1, Note: "of what was before"})
				return nil
			}), 0, nil
		})
		h.Group, h.Fixed = name, fixed
		start(t, h)
		o, err := broker.NewOffsets(to, name)
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		await(t, name+" has committed", func() bool {
			at, ok, err := o.Committed(t.Context(), broker.Partition{Topic: topic})
			return err == nil && ok && at.Offset >= 10 && at.Note == ""
		})
		if refused.Load() == 0 {
			t.Errorf("%s: nothing was refused", name)
		}
	}
}
