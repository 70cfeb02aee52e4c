package config

import (
	"fmt"
	"reflect"

	"github.com/goccy/go-yaml"
)

// YAML returns the profile with every key that its backend has and that says
// something, whether a file names it or not. As the file of a profile that is the
// same profile.
func (p Profile) YAML() ([]byte, error) {
	if p.Backend == "proxmox" {
		p.Root = "" // settle has made it of the other keys
	}
	if p.Pool.Size == 0 {
		p.Pool = Profile{}.Pool
	}
	p.Extends = "" // all of that is here
	text, err := yaml.Marshal(p.settings(reflect.ValueOf(p), nil))
	if err != nil {
		return nil, fmt.Errorf("profile %s: %w", p.Name, err)
	}
	return text, nil
}

// settings appends the keys of the struct v, in its order, that are to be shown.
func (p Profile) settings(v reflect.Value, to yaml.MapSlice) yaml.MapSlice {
	for i := range v.NumField() {
		key := v.Type().Field(i).Tag.Get("yaml")
		of := backendKeys[key]
		switch {
		case key == ",inline":
			to = p.settings(v.Field(i), to)
		case v.Field(i).IsZero(), of != "" && of != p.Backend:
		default:
			to = append(to, yaml.MapItem{Key: key, Value: v.Field(i).Interface()})
		}
	}
	return to
}
