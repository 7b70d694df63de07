package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/alecthomas/kong"
)

// configFile is the content of serve's --config: an object whose members are
// named as flags are.
type configFile map[string]any

// loadConfig reads a configuration file.
func loadConfig(r io.Reader) (kong.Resolver, error) {
	var c configFile
	d := json.NewDecoder(r)
	if err := d.Decode(&c); err != nil {
		return nil, fmt.Errorf("the configuration file is not a JSON object: %w", err)
	}
	if c == nil {
		return nil, errors.New("the configuration file is not a JSON object: it is null")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("the configuration file has something behind its JSON object")
	}
	return c, nil
}

// Validate refuses a name that is no flag of serve.
func (c configFile) Validate(app *kong.Application) error {
	var known []string
	for _, f := range app.Flags {
		known = append(known, f.Name)
	}
	for _, node := range app.Children {
		if node.Name != "serve" {
			continue
		}
		for _, f := range node.Flags {
			known = append(known, f.Name)
		}
	}
	for name := range c {
		if !slices.Contains(known, name) {
			return fmt.Errorf("the configuration file sets %q, which is no flag of cmkfsd serve", name)
		}
	}
	return nil
}

// Resolve returns a flag's value, nil if the file does not have it.
func (c configFile) Resolve(_ *kong.Context, _ *kong.Path, f *kong.Flag) (any, error) {
	return c[f.Name], nil
}
