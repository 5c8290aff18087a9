package oracle
import ("testing";"math/rand/v2";"fmt";"strings";bc "tandem/core/beacon")
func TestTmp(t *testing.T){
 rng:=rand.New(rand.NewPCG(7,7))
 seeds:=[]string{`{"id":"a","tenant":"shop","session":"s1","ts":1767607200000,"point":"home","values":{"v":1.5e0,"w":-0.25},"login":true}`,
 `{"id":"é\ud83d\ude00","ts":"2026-01-05T10:00:00.9999+01:30","attrs":{"k":[1,{"a":"\u00e9"}],"n":1.50,"b":false},"experiments":{"x":null,"y":"red"},"id":"b"}`}
 frag:=[]string{`"`,`\`,`{`,`}`,`[`,`]`,`,`,`:`,`0`,`1`,`9`,`-`,`.`,`e`,` `,"\n","\x00","\x80","é",`\u`,`\ud800`,`\udc00`,`null`,`true`,`1e999`,`"ts":`,`"ts":1,`,`"id":"",`,`"device":"m",`,"T","Z","+","2"}
 n,okc:=0,0
 var p bc.Parser; var fb bc.Beacon
 for range 150000 { s:=seeds[rng.IntN(2)]
  for range 1+rng.IntN(3) { i:=rng.IntN(len(s)); j:=min(len(s),i+rng.IntN(4)); s=s[:i]+frag[rng.IntN(len(frag))]+s[j:]; if len(s)==0 {s="{}"} }
  b,err:=parse([]byte(s)); r:=p.Parse([]byte(s),&fb)
  if (err!=nil)!=(r==bc.Malformed) { if b!=nil && !b.hasTS && strings.Contains(s,`"ts"`) {continue}; if n++;n<10 {t.Errorf("%q oracle=%v fast=%v",s,err,r)}; continue}
  if err!=nil {continue}; okc++
  f:=fmt.Sprint(b.id,"|",b.tenant,"|",b.session,"|",b.visitor,"|",b.hasTS,b.ts,b.point!=nil,b.device!=nil,b.login)
  var l any; if fb.HasLogin {l=fb.Login}
  g:=fmt.Sprint(string(fb.ID),"|",string(fb.Tenant),"|",string(fb.Session),"|",string(fb.Visitor),"|",fb.HasTS,fb.TS,fb.HasPoint,fb.HasDevice,l)
  if f!=g {t.Errorf("%q\n%s\n%s",s,f,g)}
 }
 t.Log(okc)
}
