package tenant
import ("testing";"strings";"time")
func TestZZ(t *testing.T){
 for _,s:=range []string{"tenant: a\npoints: {a\nb: c", "tenant: a\n  b: c\n", "tenant: a\n\tb: c\n","tenant: a\npoints:\n - a\n b: c\n","tenant: [a\n","tenant: \"a\n\n","tenant: a\nx: *foo\n","tenant: a\nx: \x01\n","a: b: c","tenant: a\n- b\n","tenant: a\npoints:\n  home: {}\n item: {}\n", "tenant: a\npoints:\n  home: {kind: page\n  item: {}\n","tenant: a\n%foo\n---\n","tenant: a\n---\ntenant: b\n","tenant: a\n---\n[","---\n...\n","tenant: a\nq:\n  - \"tv\" == device\n"} {
  _,err:=Load("f",[]byte(s)); t.Logf("%q => %v",s,err)
 }
 big:=func(name,s string){ st:=time.Now(); _,err:=Load(name,[]byte(s)); m:="nil"; if err!=nil{m=err.Error()}; if len(m)>200{m=m[:200]}; t.Log(name,len(s),time.Since(st),m)}
 big("comments",strings.Repeat("# a\n",1<<18))
 big("flow",strings.Repeat("[",1<<20))
 big("flow9999","tenant: "+strings.Repeat("[",9990)+strings.Repeat("]",9990))
 big("keys","tenant: a\n"+strings.Repeat("a: b\n",1<<20/5-5))
 var b strings.Builder; for i:=0;b.Len()<1<<20-100;i++ { b.WriteString("k"); b.WriteString(time.Duration(i).String()); b.WriteString(":\n")}
 big("ukeys","tenant: a\n"+b.String())
 big("colons",strings.Repeat("? ",1<<19))
 big("dashes",strings.Repeat("- ",1<<19))
 big("longline","tenant: "+strings.Repeat("a",1<<20-20))
 big("anchors","tenant: "+strings.Repeat("&a ",1<<18))
 big("quoted","tenant: \""+strings.Repeat("\\n",1<<19-20)+"\"")
 big("comments2","tenant: a\n"+strings.Repeat("a: #\n  #\n\n",1<<16))
 big("flowcommas","tenant: ["+strings.Repeat("a,",1<<19-20)+"]")
 big("flowq","tenant: {"+strings.Repeat("a? ,",1<<18-20)+"}")
}
