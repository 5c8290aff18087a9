package evidence

import (
	"encoding/json"
	"strings"
	"testing"
)

// decode brings the vectors' names into the form of Go's fields, and arrays where most kinds have an object out of the way.
func decode(t *testing.T, raw []map[string]any) []vector {
	t.Helper()
	for _, v := range raw {
		if v["kind"] == "ewma_control_referenced" {
			in := v["inputs"].(map[string]any)
			in["treated"], in["controlled"] = in["treatment"], in["control"]
			delete(in, "treatment")
			delete(in, "control")
		}
		if v["inputs"] != nil && left[v["kind"].(string)] != "" {
			v["inputs"], v["expected"] = nil, nil
		}
	}
	data, err := json.Marshal(plain(raw))
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(data, &vectors); err != nil {
		t.Fatal(err)
	}
	return vectors
}

// plain takes the underscores from the names of inputs; those of expected stay.
func plain(v any) any {
	switch v := v.(type) {
	case []map[string]any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = plain(x)
		}
		return out
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	case map[string]any:
		out := map[string]any{}
		for k, x := range v {
			if k == "expected" {
				out[k] = x
				continue
			}
			out[strings.ReplaceAll(k, "_", "")] = plain(x)
		}
		return out
	}
	return v
}
