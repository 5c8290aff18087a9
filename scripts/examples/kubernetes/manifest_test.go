// Package kubernetes checks the manifests beside it against the API's own types.
package kubernetes

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"

	yaml "go.yaml.in/yaml/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	kjson "sigs.k8s.io/json"
)

// TestManifests decodes every document strictly, and checks what the types do not: that names meet, and that the map job
// has as many shares as completions.
func TestManifests(t *testing.T) {
	data, err := os.ReadFile("batch.yaml")
	if err != nil {
		t.Fatal(err)
	}
	steps := map[string]int{}
	for dec := yaml.NewDecoder(bytes.NewReader(data)); ; {
		var doc map[string]any
		if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		var labels map[string]string
		var spec batchv1.JobSpec
		switch doc["kind"] {
		case "CronJob":
			var c batchv1.CronJob
			strict(t, text, &c)
			labels, spec = c.Labels, c.Spec.JobTemplate.Spec
			if c.Spec.ConcurrencyPolicy != batchv1.ForbidConcurrent || len(strings.Fields(c.Spec.Schedule)) != 5 {
				t.Errorf("%s: %s, schedule %q", c.Name, c.Spec.ConcurrencyPolicy, c.Spec.Schedule)
			}
		case "Job":
			var j batchv1.Job
			strict(t, text, &j)
			labels, spec = j.Labels, j.Spec
		default:
			t.Fatalf("a %v is none of the batch's", doc["kind"])
		}
		if doc["apiVersion"] != "batch/v1" {
			t.Errorf("API %v", doc["apiVersion"])
		}
		step := labels["step"]
		steps[step]++
		pod := &spec.Template.Spec
		if pod.RestartPolicy != corev1.RestartPolicyNever || len(pod.Containers) != 1 || pod.Containers[0].Args[0] != "batch" || spec.Template.Labels["step"] != step {
			t.Errorf("%s: pod %+v", step, pod)
		}
		for _, m := range pod.Containers[0].VolumeMounts {
			if len(pod.Volumes) != 1 || pod.Volumes[0].Name != m.Name || pod.Volumes[0].Projected == nil {
				t.Fatalf("%s: no volume %s", step, m.Name)
			}
			v := pod.Volumes[0].Projected
			if v.DefaultMode == nil || *v.DefaultMode&0o007 != 0 {
				t.Errorf("%s: others can read the passwords, and tandem refuses them", step)
			}
			if len(v.Sources) != 2 || v.Sources[0].ConfigMap == nil || v.Sources[1].Secret == nil {
				t.Errorf("%s: the site's files are %+v, not a ConfigMap and a Secret", step, v.Sources)
			}
		}
		if step != "cron" && pod.Containers[0].Args[1] != step {
			t.Errorf("job of step %s runs %q", step, pod.Containers[0].Args)
		}
		if step == "map" {
			indexed(t, &spec)
		}
	}
	for _, step := range []string{"cron", "plan", "map", "reduce"} {
		if steps[step] != 1 {
			t.Errorf("%d documents of step %s", steps[step], step)
		}
	}
}

func indexed(t *testing.T, spec *batchv1.JobSpec) {
	t.Helper()
	args := spec.Template.Spec.Containers[0].Args
	if spec.CompletionMode == nil || *spec.CompletionMode != batchv1.IndexedCompletion || spec.BackoffLimitPerIndex == nil {
		t.Errorf("the map job is not indexed, or all of it fails with one share: %+v", spec)
	}
	if want := "$(JOB_COMPLETION_INDEX)/" + strconv.Itoa(int(*spec.Completions)); args[len(args)-1] != want {
		t.Errorf("its task is %s, not %s: shares would be left out", args[len(args)-1], want)
	}
}

func strict(t *testing.T, text []byte, v any) {
	t.Helper()
	wrong, err := kjson.UnmarshalStrict(text, v)
	if err = errors.Join(append(wrong, err)...); err != nil {
		t.Fatal(err)
	}
}
