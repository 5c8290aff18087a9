package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A service that waits at its start for a server that does not answer stops as any other: in good order.
func TestServicesStopWhileTheyWait(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"shop.yaml": "tenant: shop\npoints:\n  home: {kind: page}\n",
		"site.yaml": `dc: dc1
kafka: {brokers: [127.0.0.1:1]}
raw: [{topic: raw, kind: live, partitions: 1}]
tenants: [{config: shop.yaml, partitions: 1}]
blobs: blobs
store: {cassandra: {hosts: [127.0.0.1:1], keyspace: tandem, dc: dc1}}
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	site := filepath.Join(dir, "site.yaml")
	for _, args := range [][]string{
		{"dispatch", "--site", site, "--id", "d0"}, {"stream", "--site", site, "--id", "s0"}, {"stream", "--stage", "2", "--site", site, "--id", "s1"},
		{"archive", "--site", site, "--id", "a0"}, {"serve", "--site", site, "--listen", "127.0.0.1:0"}, {"failover", "auto", "--site", site, "--lag", "1m"},
	} {
		t.Run(strings.Join(args[:2], " "), func(t *testing.T) {
			t.Parallel()
			ctx, stop := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer stop()
			signalled, signal := context.WithCancel(t.Context())
			context.AfterFunc(ctx, signal)
			var stdout, stderr strings.Builder
			if code := run(signalled, args, &stdout, &stderr); code != 0 {
				t.Errorf("%v: exit code %d: %s", args, code, stderr.String())
			}
			if ctx.Err() == nil {
				t.Errorf("%v: did not wait: %s", args, stderr.String())
			}
		})
	}
}

// A command line that is wrong is told before anything is opened, whatever is wrong there too.
func TestServicesLookAtFlagsFirst(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"dispatch", "--patience", "1s"}, "--patience 1s is not in 1m to 24h"}, {[]string{"dispatch", "--ahead", "2h"}, "--ahead 2h0m0s is not in 10s to 1h"},
		{[]string{"stream", "--stage", "3"}, "--stage 3 is none of 1 and 2"}, {[]string{"stream", "--stage", "1", "--standby"}, "--standby is for stage 2"},
		{[]string{"archive", "--rows", "0"}, "--rows 0 is not in 1 to 4194304"}, {[]string{"archive", "--memory", "1"}, "--memory 1 is not in 16 to 65536"},
		{[]string{"archive", "--ready-lag", "1ms"}, "--ready-lag 1ms is not in 1s to 24h"},
	} {
		var stdout, stderr strings.Builder
		code := run(t.Context(), append(c.args, "--site", filepath.Join(t.TempDir(), "none.yaml"), "--id", "a"), &stdout, &stderr)
		if want := "tandem " + c.args[0] + ": " + c.want; code != 2 || !strings.HasPrefix(stderr.String(), want) {
			t.Errorf("%v: exit code %d, %s; want 2, %s", c.args, code, stderr.String(), want)
		}
	}
}

// A service refuses topics of which Kafka drops records that nobody has read, and warns of other settings that are not as they must be,
// and of those that it may not see.
func TestServicesLookAtSettings(t *testing.T) {
	f := newSite(t, liveRaw)
	if code, _, stderr := f.topicsCommand("apply"); code != 0 {
		t.Fatal(stderr)
	}
	var log bytes.Buffer
	look := func() error {
		log.Reset()
		_, err := find(t.Context(), mustLoad(t, f), "stream.dc1", slog.New(slog.NewTextHandler(&log, nil)))
		return err
	}
	set := func(topic, setting, value string) {
		t.Helper()
		if err := f.topics.Set(t.Context(), topic, map[string]string{setting: value}); err != nil {
			t.Fatal(err)
		}
	}
	if err := look(); err != nil || log.Len() > 0 {
		t.Errorf("as apply has made them: %v, %s", err, &log)
	}
	for _, topic := range []string{"beacons.raw", "beacons.shop.0", "beacons.dead", "metrics.stream.dc1"} {
		for _, policy := range []string{"compact", "compact,delete"} {
			set(topic, "cleanup.policy", policy)
			if err := look(); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("topic %s has cleanup.policy %s", topic, policy)) || !strings.Contains(err.Error(), "topics apply sets delete") {
				t.Errorf("%s with %s: %v", topic, policy, err)
			}
		}
		set(topic, "cleanup.policy", "delete")
	}
	set("beacons.shop.0", "retention.bytes", "1000000")
	if err := look(); err != nil || !strings.Contains(log.String(), "topic=beacons.shop.0 setting=retention.bytes is=1000000 must_be=-1") {
		t.Errorf("forgets by size: %v, %s", err, &log)
	}

	// Of one topic Kafka tells nothing.
	f.cluster.ControlKey(int16(kmsg.DescribeConfigs), func(req kmsg.Request) (kmsg.Response, error, bool) {
		f.cluster.KeepControl()
		for _, r := range req.(*kmsg.DescribeConfigsRequest).Resources {
			if r.ResourceName == "beacons.dead" {
				resp := req.ResponseKind().(*kmsg.DescribeConfigsResponse)
				resp.Resources = append(resp.Resources, kmsg.DescribeConfigsResponseResource{ErrorCode: kerr.TopicAuthorizationFailed.Code, ResourceType: r.ResourceType, ResourceName: r.ResourceName})
				return resp, nil, true
			}
		}
		return nil, nil, false
	})
	if err := look(); err != nil || strings.Count(log.String(), "DescribeConfigs") != 1 || !strings.Contains(log.String(), "topic=beacons.dead") ||
		!strings.Contains(log.String(), "setting=retention.bytes") {
		t.Errorf("without the right to see settings: %v, %s", err, &log)
	}
	if code, _, stderr := f.topicsCommand("apply"); code != 1 || !strings.Contains(stderr, "beacons.dead; allow DescribeConfigs") {
		t.Errorf("apply without the right: %d, %s", code, stderr)
	}
	set("beacons.shop.0", "cleanup.policy", "compact")
	if err := look(); err == nil || errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Errorf("what it may see is compacted: %v", err)
	}
}
