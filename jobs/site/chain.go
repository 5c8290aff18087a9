package site

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"tandem/core/tenant"
)

// LoadChain loads and compiles a tenant's config file, or the revisions in a folder (*.yaml, *.yml; their `from:` orders
// them). Errors name file and line.
func LoadChain(path string) (*tenant.Chain, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	names := []string{path}
	if info.IsDir() {
		if names, err = configsIn(path); err != nil {
			return nil, err
		}
	}
	var files []tenant.File
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		files = append(files, tenant.File{Name: name, Data: data})
	}
	configs, err := tenant.LoadChain(files)
	if err != nil {
		return nil, err
	}
	chain, err := tenant.Compile(configs)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return chain, nil
}

func configsIn(folder string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if !e.IsDir() && !strings.HasPrefix(e.Name(), ".") && (ext == ".yaml" || ext == ".yml") {
			names = append(names, filepath.Join(folder, e.Name()))
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s: no .yaml file in this folder", folder)
	}
	return names, nil
}
