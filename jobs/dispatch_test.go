package main

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// admin asks the rig's Kafka for what no service does.
func (s *serviceRig) admin(t *testing.T) *kadm.Client {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(s.to.Seeds...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return kadm.NewClient(c)
}

// forget deletes the records of partition 0 of a topic before an offset, as its retention does.
func (s *serviceRig) forget(t *testing.T, ctx context.Context, topic string, before int64) {
	t.Helper()
	var at kadm.Offsets
	at.AddOffset(topic, 0, before, -1)
	r, err := s.admin(t).DeleteRecords(ctx, at)
	if err == nil {
		err = r.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A raw topic that was made anew is refused, since what comes from it would be taken for repeats and dropped.
func TestDispatchRefusesATopicMadeAnew(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := newServiceRig(t, 1, 1)
	raws := s.traffic(t, 100)
	stop := s.start(t, "dispatch", "--id", "d")
	s.write(t, ctx, raws)
	s.await(t, ctx, "all is read", func() bool { return s.readAll(ctx, "tandem.dispatch.dc1", "raw", 1) })
	stop()
	admin := s.admin(t)
	if _, err := admin.DeleteTopic(ctx, "raw"); err != nil {
		t.Fatal(err)
	}
	for _, topic := range s.site.Topics("stream.dc1") {
		if topic.Name != "raw" {
			continue
		}
		config := map[string]*string{}
		for k, v := range topic.Initial() {
			config[k] = &v
		}
		if _, err := admin.CreateTopic(ctx, 1, 1, config, "raw"); err != nil {
			t.Fatal(err)
		}
	}
	code, logs := s.once("dispatch", "--id", "d")
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	wantText(t, logs, "topic raw of cluster dc1 was made anew: .* Give the new topic another name")
}

// A raw topic that has forgotten its beginning, before anybody read it or while nobody did, is read from its log's start with --cold only.
func TestDispatchCold(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := newServiceRig(t, 1, 1)
	raws := s.traffic(t, 300)
	s.write(t, ctx, raws[:100])
	s.forget(t, ctx, "raw", 40)
	code, logs := s.once("dispatch", "--id", "d")
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	wantText(t, logs, "raw/0: nothing of it was committed yet, and its log begins at offset 40: --cold begins there")

	stop := s.start(t, "dispatch", "--id", "d", "--cold")
	s.await(t, ctx, "what is there is read", func() bool { return s.readAll(ctx, "tandem.dispatch.dc1", "raw", 1) })
	stop()
	s.write(t, ctx, raws[100:])
	s.forget(t, ctx, "raw", s.end(ctx, "raw")-50)
	code, logs = s.once("dispatch", "--id", "d")
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	wantText(t, logs, "raw/0: the offset is out of the log's range: .*--cold reads on from the log's start")
	stop = s.start(t, "dispatch", "--id", "d", "--cold")
	s.await(t, ctx, "what is left is read", func() bool { return s.readAll(ctx, "tandem.dispatch.dc1", "raw", 1) })
	stop()
	wantText(t, s.logs.String(), "cold start: it is read from its log's start on.*committed=100")
}

// Where Kafka has forgotten what no archiver had read, the archive goes on with --cold only, and tells what it lost.
func TestArchiveCold(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := newServiceRig(t, 1, 1)
	raws := s.traffic(t, 1000)
	s.start(t, "dispatch", "--id", "d")
	stop := s.start(t, "archive", "--id", "a")
	s.write(t, ctx, raws[:500], raws[500].Ingest)
	s.await(t, ctx, "some is archived", func() bool { return s.committed(ctx, "tandem.archive.dc1", "beacons.shop.0", 1) > 0 })
	stop()
	end := raws[len(raws)-1].Ingest
	s.write(t, ctx, raws[500:], end+1)
	s.await(t, ctx, "all is read", func() bool { return s.readAll(ctx, "tandem.dispatch.dc1", "raw", 1) })
	s.forget(t, ctx, "beacons.shop.0", s.end(ctx, "beacons.shop.0")-10)
	code, logs := s.once("archive", "--id", "a")
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	wantText(t, logs, "beacons.shop.0/0: the offset is out of the log's range: .*never archived; --cold goes on at the log's start")

	archived := s.committed(ctx, "tandem.archive.dc1", "beacons.shop.0", 1)
	s.start(t, "archive", "--id", "a", "--cold")
	s.await(t, ctx, "it goes on", func() bool {
		end += 600_000 // time goes on
		s.write(t, ctx, nil, end)
		return s.committed(ctx, "tandem.archive.dc1", "beacons.shop.0", 1) > archived
	})
	s.stopAll()
	out, _ := archiveCommand(t, 0, "verify", "--site", s.file)
	wantText(t, out, "[1-9][0-9]* offsets were never archived: Kafka had forgotten them")
}
