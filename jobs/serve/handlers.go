package serve

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// formulas is POST /{tenant}.
func (s *server) formulas(w http.ResponseWriter, r *http.Request) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		Fail(w, r, &Problem{Status: http.StatusUnsupportedMediaType, Title: "The body is JSON", Detail: "send Content-Type: application/json"})
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
		if errors.As(err, &large) {
			err = &Problem{Status: http.StatusRequestEntityTooLarge, Title: "The body is too large", Limit: "body"}
		} else {
			err = Bad(err)
		}
		Fail(w, r, err)
		return
	}
	out, err := FromContext(r.Context()).Answer(r.Context(), &b)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(out) // a client that is gone is not told
}

// fail logs what the client is not told.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	var p *Problem
	if !errors.As(err, &p) && r.Context().Err() == nil {
		s.Log.Warn("a request was not answered", "path", r.URL.Path, "error", err)
	}
	Fail(w, r, err)
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

// download is GET /{tenant}/download.csv.
func (s *server) download(w http.ResponseWriter, r *http.Request) {
	q := FromContext(r.Context())
	values, err := url.ParseQuery(r.URL.RawQuery)
	var b *Batch
	if err == nil {
		b, err = fromQuery(values)
	}
	if err != nil {
		Fail(w, r, Bad(err))
		return
	}
	out, err := q.Answer(r.Context(), b)
	if err == nil && len(out.Warnings) > 0 {
		err = Bad(errors.New(out.Warnings[0].Detail)) // a file has no place to say what is missing in it
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="%s.csv"`, q.Tenant.Chain.Tenant))
	c := csv.NewWriter(w)
	c.Write(append([]string{"time", "state", "formula", "variation"}, append(slices.Clone(b.GroupBy), "value")...))
	for _, l := range out.Series {
		for i, v := range l.Values {
			line := []string{time.Unix(out.Times[i], 0).UTC().Format(time.RFC3339), out.States[i], l.Formula, l.Variation}
			for _, t := range b.GroupBy {
				line = append(line, l.Tags[t])
			}
			value := ""
			if !math.IsNaN(v) {
				value = strconv.FormatFloat(v, 'g', -1, 64)
			}
			c.Write(append(line, value))
		}
	}
	c.Flush() // a client that is gone is not told
}
