package mapping
import ("testing";"strings";"fmt";"tandem/schemas/records")
func TestProbe(t *testing.T){
 for _, c := range [][2]string{
 {"format: csv\nfields: {id: 'hash(time, count, values)', tenant: '\"x\"', session: string(line), ts: 'time(time,\"unix\")'}", "time,count,values,line\n12.3456,2,3,q\n"},
 {"format: ndjson\nfields: {id: 'hash(time, count, values, id)', tenant: '\"x\"', session: string(line), ts: 'time(time,\"unix\")'}\nvalues: {a: a.b, b: 'a.b*2', c: 'a?.z?.y', d: 'a.c.d'}", "{\"time\":12.5,\"a\":{\"b\":0.1000000000000000055}}\n{}\n[]\n{\"time\":1} 7\n"},
 } {
  m, err := Parse("m.yaml", []byte(c[0]))
  if err != nil { t.Error(err); continue }
  st, err := m.Import(strings.NewReader(c[1]), func(r records.Record) error { fmt.Println(r.Ingest, string(r.Payload)); return nil }, func(l int64, s string){fmt.Println(l,s)})
  fmt.Println(st, err)
 }
}
