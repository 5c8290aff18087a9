package serve

import (
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
)

// APIVersion is that of the formula API. Fields are only added within a major version.
const APIVersion = "1.0.0"

// openAPI is GET /openapi.json: made of the types that the handlers read and write, so that the two cannot differ.
func openAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(Document()) // a client that is gone is not told
}

type object = map[string]any

// Document is the OpenAPI document.
func Document() object {
	schemas := object{}
	content := func(kind string, v any) object {
		return object{kind: object{"schema": schemaOf(reflect.TypeOf(v), schemas)}}
	}
	problem := object{"description": "what is wrong (RFC 9457)", "content": content("application/problem+json", Problem{})}
	tenant := object{"name": "tenant", "in": "path", "required": true, "schema": object{"type": "string"}}
	// What is not told here is told of the field of Batch that has the name.
	list := object{"type": "array", "items": object{"type": "string"}} // one parameter for each: OpenAPI's form of a list, if it says nothing
	var parameters []object
	parameters = append(parameters, tenant, object{"name": "formula", "in": "query", "required": true, "description": "ids, a parameter for each", "schema": list})
	for _, name := range []string{"experiment", "scope", "from", "to", "step"} {
		parameters = append(parameters, object{"name": name, "in": "query", "schema": object{"type": "string"}})
	}
	for _, p := range [][2]string{{"groupBy", "tags, a parameter for each"}, {"filter", "TAG:VALUE, a parameter for each"}, {"param", "NAME:POINT, a parameter for each"}} {
		parameters = append(parameters, object{"name": p[0], "in": "query", "description": p[1], "schema": list})
	}
	download := func(kind string) object {
		return object{"get": object{
			"summary": "The same as a file: a line for each point", "parameters": parameters,
			"responses": object{"200": object{"description": "the file", "content": object{kind: object{"schema": object{"type": "string"}}}}, "default": problem},
		}}
	}
	return object{
		"openapi": "3.1.0",
		"info":    object{"title": "Tandem: formulas", "version": APIVersion},
		"paths": object{
			"/{tenant}": object{"post": object{
				"summary": "Evaluates formulas over a range", "parameters": []object{tenant},
				"requestBody": object{"required": true, "content": content("application/json", Batch{})},
				"responses":   object{"200": object{"description": "series by formula and variation", "content": content("application/json", Result{})}, "default": problem},
			}},
			"/{tenant}/download.csv":     download("text/csv"),
			"/{tenant}/download.parquet": download("application/vnd.apache.parquet"),
		},
		"components": object{"schemas": schemas, "securitySchemes": object{"token": object{"type": "http", "scheme": "bearer"}}},
		"security":   []object{{"token": []string{}}},
	}
}

// schemaOf is the schema of a type as encoding/json writes it; of a struct a reference.
func schemaOf(t reflect.Type, schemas object) object {
	if t == reflect.TypeFor[Values]() {
		return object{"type": "array", "items": object{"type": []string{"number", "null"}}}
	}
	if t == reflect.TypeFor[Number]() {
		return object{"type": []string{"number", "null"}}
	}
	switch t.Kind() {
	case reflect.Pointer: // absent where there is none
		return schemaOf(t.Elem(), schemas)
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return object{"type": "integer"}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.Slice:
		return object{"type": "array", "items": schemaOf(t.Elem(), schemas)}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": schemaOf(t.Elem(), schemas)}
	case reflect.Struct:
		if schemas[t.Name()] == nil {
			s := object{"type": "object", "additionalProperties": false}
			schemas[t.Name()] = s
			properties, required := object{}, []string{}
			fields(t, schemas, properties, &required)
			s["properties"], s["required"] = properties, required
		}
		return object{"$ref": "#/components/schemas/" + t.Name()}
	}
	return object{"type": "string"}
}

func fields(t reflect.Type, schemas, properties object, required *[]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		if f.Anonymous && tag == "" {
			fields(f.Type, schemas, properties, required)
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		if !f.IsExported() || name == "" || name == "-" {
			continue
		}
		s := schemaOf(f.Type, schemas)
		if doc := f.Tag.Get("doc"); doc != "" {
			s["description"] = doc
		}
		properties[name] = s
		if !strings.Contains(options, "omitempty") {
			*required = append(*required, name)
		}
	}
}
