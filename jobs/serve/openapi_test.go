package serve

import (
	"encoding/json"
	"net/url"
	"reflect"
	"testing"
)

// The document's schemas are closed: a request and an answer of the handlers have no field that it does not list.
func TestOpenAPI(t *testing.T) {
	h, _, tokens := testServer(t, DefaultLimits())
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			Parameters []struct {
				Name, In string
				Schema   struct{ Type string }
			}
		}
		Components struct {
			Schemas map[string]struct {
				Properties map[string]any
				Required   []string
			}
		}
	}
	must(t, json.Unmarshal(call(h, "GET", "/openapi.json", "", "").Body.Bytes(), &doc))
	// A parameter is a list where the handler takes it twice, and only there.
	for _, p := range doc.Paths["/{tenant}/download.csv"]["get"].Parameters {
		_, err := fromQuery(url.Values{p.Name: {"a:b", "c:d"}})
		if p.In == "query" && (err == nil) != (p.Schema.Type == "array") {
			t.Errorf("parameter %s is of type %s; twice: %v", p.Name, p.Schema.Type, err)
		}
	}
	var answer map[string]any
	must(t, json.Unmarshal(call(h, "POST", "/shop", tokens["one"], `{"formulas":[{"id":"orders"}],"experiment":"x"}`).Body.Bytes(), &answer))
	check := func(name string, v map[string]any) {
		s := doc.Components.Schemas[name]
		for f := range v {
			if s.Properties[f] == nil {
				t.Errorf("%s has no %s in the document", name, f)
			}
		}
		for _, f := range s.Required {
			if _, ok := v[f]; !ok {
				t.Errorf("%s lacks %s, which the document promises", name, f)
			}
		}
	}
	check("Result", answer)
	check("Meta", answer["formulas"].([]any)[0].(map[string]any))
	check("Line", answer["series"].([]any)[0].(map[string]any))
	var compared map[string]any
	must(t, json.Unmarshal(call(h, "POST", "/shop", tokens["one"], `{"formulas":[{"expr":"order.beta / visit.beta"}],"experiment":"x","compare":true}`).Body.Bytes(), &compared))
	check("Result", compared)
	check("Evidence", compared["evidence"].(map[string]any))
	proofs := 0
	for _, l := range compared["series"].([]any) {
		if p, ok := l.(map[string]any)["proof"].(map[string]any); ok {
			proofs++
			check("Proof", p)
			check("Estimate", p["relative"].(map[string]any))
		}
	}
	if proofs != 2 {
		t.Errorf("%d proofs", proofs)
	}
	if len(doc.Components.Schemas["Batch"].Properties) != reflect.TypeFor[Batch]().NumField() {
		t.Error("Batch and its schema have not the same fields")
	}
}
