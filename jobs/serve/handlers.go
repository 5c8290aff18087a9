package serve

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"tandem/schemas/tables"
)

// formulas is POST /{tenant}.
func (s *server) formulas(w http.ResponseWriter, r *http.Request) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		Fail(w, &Problem{Status: http.StatusUnsupportedMediaType, Title: "The body is JSON", Detail: "send Content-Type: application/json"})
		return
	}
	var b Batch
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, s.Limits.Body))
	d.DisallowUnknownFields()
	err := d.Decode(&b)
	if err == nil && d.Decode(&struct{}{}) != io.EOF {
		err = errors.New("there is something after the object")
	}
	if err != nil {
		var large *http.MaxBytesError
		switch {
		case errors.As(err, &large):
			err = &Problem{Status: http.StatusRequestEntityTooLarge, Title: "The body is too large", Limit: "body"}
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = &Problem{Status: http.StatusRequestTimeout, Title: "The body did not come in time", Limit: "time"}
		default:
			err = Bad(err)
		}
		Fail(w, err)
		return
	}
	out, err := answer(r.Context(), &b)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(out) // a client that is gone is not told
}

// answer works out a batch when it is its turn.
func answer(ctx context.Context, b *Batch) (*Result, error) {
	q := FromContext(ctx)
	done, err := q.Work(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return q.Answer(ctx, b)
}

// fail logs what the client is not told.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	var p *Problem
	if !errors.As(err, &p) && r.Context().Err() == nil {
		s.Log.Warn("a request was not answered", "path", r.URL.Path, "error", err)
	}
	Fail(w, err)
}

// fromQuery reads a batch from the parameters of a URL, which have the names of its fields; formula, groupBy and
// filter=TAG:VALUE may come more than once.
func fromQuery(values url.Values) (*Batch, error) {
	b := &Batch{Filter: map[string][]string{}, Params: map[string]string{}}
	for name, all := range values {
		one := all[0]
		if len(all) > 1 && !slices.Contains([]string{"formula", "groupBy", "filter", "param"}, name) {
			return nil, fmt.Errorf("%s is there %d times", name, len(all))
		}
		switch name {
		case "formula":
			for _, id := range all {
				b.Formulas = append(b.Formulas, Ask{ID: id})
			}
		case "experiment":
			b.Experiment = one
		case "scope":
			b.Scope = one
		case "from":
			b.From = one
		case "to":
			b.To = one
		case "step":
			b.Step = one
		case "groupBy":
			b.GroupBy = all
		case "filter", "param":
			for _, f := range all {
				k, v, ok := strings.Cut(f, ":")
				if !ok {
					return nil, fmt.Errorf("%s %q is not as NAME:VALUE", name, f)
				}
				if name == "param" {
					b.Params[k] = v
				} else {
					b.Filter[k] = append(b.Filter[k], v)
				}
			}
		default:
			return nil, fmt.Errorf("there is no parameter %q", name)
		}
	}
	return b, nil
}

// download is GET /{tenant}/download.csv and .parquet; name is which.
func (s *server) download(w http.ResponseWriter, r *http.Request, name string) {
	q := FromContext(r.Context())
	values, err := url.ParseQuery(r.URL.RawQuery)
	var b *Batch
	if err == nil {
		b, err = fromQuery(values)
	}
	if err != nil {
		Fail(w, Bad(err))
		return
	}
	out, err := answer(r.Context(), b)
	if err == nil && len(out.Warnings) > 0 {
		err = Bad(errors.New(out.Warnings[0].Detail)) // a file has no place to say what is missing in it
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	write, kind := writeCSV, "text/csv; charset=utf-8"
	if name == "parquet" {
		write, kind = writeParquet, "application/vnd.apache.parquet"
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="%s.%s"`, q.Tenant.Chain.Tenant, name))
	if err := write(w, out, b.GroupBy); err != nil {
		s.Log.Warn("a download broke off", "path", r.URL.Path, "error", err)
		panic(http.ErrAbortHandler) // so that it does not look whole
	}
}

// eachPoint calls fn for each value of a result: time in seconds since the epoch.
func (out *Result) eachPoint(groupBy []string, fn func(time int64, state string, l *Line, tags []string, value float64) error) error {
	for i := range out.Series {
		l := &out.Series[i]
		var tags []string
		for _, t := range groupBy {
			tags = append(tags, l.Tags[t])
		}
		for p, v := range l.Values {
			if err := fn(out.Times[p], out.States[p], l, tags, v); err != nil {
				return err
			}
		}
	}
	return nil
}

func writeCSV(w io.Writer, out *Result, groupBy []string) error {
	c := csv.NewWriter(w)
	c.Write(append([]string{"time", "state", "formula", "variation"}, append(slices.Clone(groupBy), "value")...))
	err := out.eachPoint(groupBy, func(at int64, state string, l *Line, tags []string, v float64) error {
		value := ""
		if !math.IsNaN(v) {
			value = strconv.FormatFloat(v, 'g', -1, 64)
		}
		line := append([]string{time.Unix(at, 0).UTC().Format(time.RFC3339), state, l.Formula, l.Variation}, tags...)
		return c.Write(append(line, value))
	})
	c.Flush()
	return errors.Join(err, c.Error())
}

func writeParquet(w io.Writer, out *Result, groupBy []string) error {
	table := tables.NewPoints(groupBy)
	err := out.eachPoint(groupBy, func(at int64, state string, l *Line, tags []string, v float64) error {
		return table.Add(at*1000, state, l.Formula, l.Variation, tags, v)
	})
	if err != nil {
		return err
	}
	data, err := table.Finish()
	if err == nil {
		_, err = w.Write(data)
	}
	return err
}
