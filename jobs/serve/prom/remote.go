package prom

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
)

// remoteRead answers Prometheus' remote read, so that a Prometheus has a tenant's metrics among its own:
//
//	remote_read:
//	  - url: https://tandem.example/shop/api/v1/read
//	    read_recent: true
//
// It answers in samples, which every version accepts, not in chunks.
func (a *API) remoteRead(w http.ResponseWriter, r *http.Request, q *querier) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, a.Limits.Body))
	if err != nil {
		fail(w, badData("body: %w", err))
		return
	}
	if n, err := snappy.DecodedLen(data); err != nil || int64(n) > a.Limits.Body {
		fail(w, badData("body: it is not Snappy, or more than %d bytes", a.Limits.Body))
		return
	}
	raw, err := snappy.Decode(nil, data)
	if err != nil {
		fail(w, badData("body: %w", err))
		return
	}
	var in prompb.ReadRequest
	if err := in.Unmarshal(raw); err != nil {
		fail(w, badData("body: %w", err))
		return
	}
	if len(in.Queries) > maxQueries {
		fail(w, badData("%d queries in one request, more than %d", len(in.Queries), maxQueries))
		return
	}
	if !a.work(w, r, func(ctx context.Context) (err error) {
		data, err = q.remoteAnswer(ctx, &in)
		return err
	}) {
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.Header().Set("Content-Encoding", "snappy")
	w.Write(data) // who has gone does not read it
}

// remoteAnswer is the body of an answer.
func (q *querier) remoteAnswer(ctx context.Context, in *prompb.ReadRequest) ([]byte, error) {
	var out prompb.ReadResponse
	for _, query := range in.Queries {
		res, err := q.remote(ctx, query)
		if err != nil {
			return nil, err
		}
		out.Results = append(out.Results, res)
	}
	data, err := out.Marshal()
	if err != nil {
		return nil, err
	}
	return snappy.Encode(nil, data), nil
}

// maxQueries of one remote read: Prometheus sends one.
const maxQueries = 32

func (q *querier) remote(ctx context.Context, in *prompb.Query) (*prompb.QueryResult, error) {
	var matchers []*labels.Matcher
	for _, m := range in.Matchers {
		kind, ok := map[prompb.LabelMatcher_Type]labels.MatchType{prompb.LabelMatcher_EQ: labels.MatchEqual, prompb.LabelMatcher_NEQ: labels.MatchNotEqual,
			prompb.LabelMatcher_RE: labels.MatchRegexp, prompb.LabelMatcher_NRE: labels.MatchNotRegexp}[m.Type]
		if !ok {
			return nil, badData("matcher of unknown type %d", m.Type)
		}
		matcher, err := labels.NewMatcher(kind, m.Name, m.Value)
		if err != nil {
			return nil, badData("matcher on %q: %w", m.Name, err)
		}
		matchers = append(matchers, matcher)
	}
	if in.EndTimestampMs < in.StartTimestampMs {
		return nil, badData("%w", fmt.Errorf("the range ends at %d, before it begins at %d", in.EndTimestampMs, in.StartTimestampMs))
	}
	all, err := q.read(ctx, in.StartTimestampMs, in.EndTimestampMs, matchers)
	if err != nil {
		return nil, err
	}
	out := &prompb.QueryResult{}
	for _, s := range all {
		ts := &prompb.TimeSeries{Labels: prompb.FromLabels(s.labels, nil)}
		for _, p := range s.points {
			ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: p.t, Value: p.v})
		}
		out.Timeseries = append(out.Timeseries, ts)
	}
	return out, nil
}
