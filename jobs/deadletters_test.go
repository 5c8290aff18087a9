package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"tandem/schemas/wire"
	"tandem/stream/broker"
	"tandem/stream/dispatch"
)

// What dispatch has rejected is printed whole with its reason and its place, by reason, from a time on, and at most so many.
func TestDeadletters(t *testing.T) {
	f := applied(t, liveRaw)
	w, err := broker.NewWriter(f.to)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	d := &dispatch.Dispatcher{Teller: &dispatch.Teller{EveryMS: 10_000, Out: w}, DeadTopic: "beacons.dead", Out: w}
	d.Teller.SetSources(wire.Sources{List: []wire.Source{{Topic: "beacons.raw", Partition: 0}, {Topic: "beacons.raw", Partition: 1}}})
	const begin = 1_767_225_600_000 // 2026-01-01
	var raw []broker.Record
	for i, payload := range []string{`<b>`, "\xff\x00", `{"id":"1","session":"s","tenant":"nobody","ts":1767225600000}`, ``, `{"id":"2"}`} {
		// The two partitions are minutes apart.
		raw = append(raw, broker.Record{Topic: "beacons.raw", Partition: int32(i % 2), Offset: int64(10 + i), Time: begin + int64(i%2)*600_000 + int64(i), Value: []byte(payload)})
	}
	if err := d.Handle(t.Context(), raw); err != nil {
		t.Fatal(err)
	}
	run := func(code int, args ...string) (lines []deadLetter, stderr string) {
		t.Helper()
		var out, errs bytes.Buffer
		if got := runDeadletters(context.Background(), append(args, "--site", f.file), &out, &errs); got != code {
			t.Fatalf("%q: exit code %d, %s", args, got, errs.String())
		}
		for line := range strings.Lines(out.String()) {
			var l deadLetter
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			lines = append(lines, l)
		}
		return lines, errs.String()
	}
	all, stderr := run(0)
	if len(all) != len(raw) || stderr != "" {
		t.Fatalf("%d lines, %s", len(all), stderr)
	}
	for i, l := range all {
		want := deadLetter{Offset: int64(i), Reason: []string{"malformed", "malformed", "unknown_tenant", "malformed", "bad_session"}[i],
			Source: fmt.Sprintf("beacons.raw/%d/%d", i%2, 10+i), Ingest: "2026-01-01T00:" + strconv.Itoa(i%2) + "0:00.00" + strconv.Itoa(i) + "Z", Payload: string(raw[i].Value)}
		if i == 1 {
			want.Payload, want.Base64 = "", raw[i].Value
		}
		if fmt.Sprint(l) != fmt.Sprint(want) {
			t.Errorf("line %d is %+v, want %+v", i, l, want)
		}
	}
	offsets := func(lines []deadLetter) (at []int64) {
		for _, l := range lines {
			at = append(at, l.Offset)
		}
		return at
	}
	for _, c := range []struct {
		args []string
		want []int64
		more bool
	}{
		{[]string{"--reason", "malformed"}, []int64{0, 1, 3}, false},
		{[]string{"--reason", "too_old"}, nil, false},
		{[]string{"--from", "2026-01-01T00:05:00Z"}, []int64{1, 3}, false},
		{[]string{"--from", "2026-01-02T00:00:00Z"}, nil, false},
		{[]string{"--max", "2"}, []int64{0, 1}, true},
		{[]string{"--max", "3", "--reason", "malformed"}, []int64{0, 1, 3}, false},
	} {
		lines, stderr := run(0, c.args...)
		if got := offsets(lines); !slices.Equal(got, c.want) || (stderr != "") != c.more {
			t.Errorf("%q: offsets %v, want %v; %s", c.args, got, c.want, stderr)
		}
	}
	for _, args := range [][]string{{"--reason", "bad"}, {"--from", "noon"}, {"--max", "0"}, {"x"}} {
		run(2, args...)
	}
}
