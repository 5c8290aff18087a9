package oracle

import "testing"

func TestConditions(t *testing.T) {
	const payload = `{"point":"item","device":"mobile","login":false,"visitor":"","values":{"price":9.99,"n":1},
		"attrs":{"huge":1e999,"path":"/item/42","plan":1,"vip":true,"unit-price":0.1,"device":"tv","visitor":"v","one":"1"}}`
	b, err := parse([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		text string
		want bool
	}{
		{`point == "item"`, true},
		{`point != "item"`, false},
		{`device == "mobile" and attrs.device == "tv"`, true},
		{`visitor == "v"`, true},
		{`login == false`, true},
		{`login`, false},
		{`not login`, true},
		{`attrs.vip`, true},
		{`attrs.path`, false},
		{`not attrs.path`, true},
		{`attrs.none == nil`, true},
		{`attrs.none != nil`, false},
		{`attrs.none != "x"`, true},
		{`attrs.none < 1 or attrs.none >= 1`, false},
		{`attrs.none <= nil`, false},
		{`values.revenue == nil and values["price"] > 9.5`, true},
		{`values.price == 9.99 && values.n == 1.0`, true},
		{`attrs.huge > 1e308`, true},
		{`attrs["unit-price"] == 0.1`, true},
		{`attrs.plan == attrs.one`, false},
		{`attrs.plan != attrs.one`, true},
		{`attrs.plan < "2"`, false},
		{`attrs.one < "2"`, true},
		{`attrs.plan > -1`, true},
		{`0 < values.price < 10`, true},
		{`attrs.vip > false`, false},
		{`point in ["home", "item"]`, true},
		{`point not in ["home", "cart"]`, true},
		{`attrs.none in ["x"]`, false},
		{`attrs.none in [nil]`, true},
		{`attrs.plan in ["1"]`, false},
		{`attrs.plan in [1, "x"]`, true},
		{`attrs.path startsWith "/item" and attrs.path endsWith "42" and attrs.path contains "em/"`, true},
		{`attrs.plan contains "1"`, false},
		{`attrs.path not contains "cart"`, true},
		{`attrs.path matches "m/[0-9]+"`, true},
		{`attrs.path matches "^item"`, false},
		{`attrs.none matches ".*"`, false},
		{`not (attrs.none == nil) or point == "item"`, true},
		{`point == "cart" or device == "mobile" and login == true`, false},
		{`!(point == "cart") && !(1 > 2)`, true},
		{`nil`, false},
		{`1`, false},
		{`nil == nil`, true},
		{`true == 1`, false},
	}
	for _, c := range cases {
		if got := compile(c.text).holds(b); got != c.want {
			t.Errorf("%s: %v, expected %v", c.text, got, c.want)
		}
	}
}
