package main

import (
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// yamlFile parses the configuration file for koanf. koanf's own parser would lose the lines, which the reports name, and would
// guess types, which the settings know better: so all values stay text.
type yamlFile struct{ loader *loader }

// Unmarshal returns values by section and name, and notes problems and lines in the loader.
func (y yamlFile) Unmarshal(content []byte) (map[string]any, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(content, &document); err != nil {
		return nil, fmt.Errorf("%s is not YAML: %s", y.loader.file, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	out := make(map[string]any)
	if len(document.Content) == 0 {
		return out, nil // empty, or nothing but comments
	}
	root := resolve(document.Content[0])
	if isNull(root) {
		return out, nil
	}
	if root.Kind != yaml.MappingNode {
		y.problem(root, "", "the file must hold the sections "+sectionList())
		return out, nil
	}
	for i := 0; i < len(root.Content); i += 2 {
		name, value := root.Content[i], resolve(root.Content[i+1])
		if !isSection(name.Value) {
			y.topLevel(out, name, value)
			continue
		}
		switch {
		case isNull(value):
		case value.Kind != yaml.MappingNode:
			y.problem(name, name.Value, "is a section; its keys go below it, indented")
		default:
			y.section(out, name.Value, value)
		}
	}
	return out, nil
}

// Marshal is part of koanf's interface and never called.
func (yamlFile) Marshal(map[string]any) ([]byte, error) {
	return nil, errors.New("a configuration is not written")
}

// section reads the keys of one section.
func (y yamlFile) section(out map[string]any, section string, body *yaml.Node) {
	for i := 0; i < len(body.Content); i += 2 {
		name, value := body.Content[i], resolve(body.Content[i+1])
		s := findSetting(name.Value)
		switch {
		case s == nil:
			y.problem(name, section+"."+name.Value, "unknown key; section "+section+" has "+strings.Join(namesOf(section), ", "))
		case s.section != section && s.also != section:
			y.problem(name, section+"."+name.Value, "belongs into section "+s.section)
		default:
			y.value(out, s, name, value)
		}
	}
}

// topLevel reads a key outside of any section: the names of keys are unique, so they may stand alone.
func (y yamlFile) topLevel(out map[string]any, name, value *yaml.Node) {
	s := findSetting(name.Value)
	if s == nil {
		y.problem(name, name.Value, "unknown section or key; the sections are "+sectionList())
		return
	}
	y.value(out, s, name, value)
}

// value takes over the value of a setting.
func (y yamlFile) value(out map[string]any, s *setting, name, value *yaml.Node) {
	if line, twice := y.loader.lines[s.key()]; twice {
		y.problem(name, s.key(), fmt.Sprintf("is set in line %d already", line))
		return
	}
	if isNull(value) {
		return // a key without a value keeps its default
	}
	var v any = value.Value
	switch value.Kind {
	case yaml.ScalarNode:
	case yaml.SequenceNode:
		list := make([]string, 0, len(value.Content))
		for _, n := range value.Content {
			n = resolve(n)
			if n.Kind != yaml.ScalarNode || isNull(n) {
				y.problem(n, s.key(), "each item of the list must be plain text: "+s.usage)
				return
			}
			list = append(list, n.Value)
		}
		v = list
	default:
		y.problem(name, s.key(), "takes a value, not a section")
		return
	}
	y.loader.lines[s.key()] = name.Line
	section, ok := out[s.section].(map[string]any)
	if !ok {
		section = make(map[string]any)
		out[s.section] = section
	}
	section[s.name] = v
}

func (y yamlFile) problem(at *yaml.Node, key, reason string) {
	y.loader.problems = append(y.loader.problems, problem{origin: y.loader.at(at.Line), key: key, reason: reason})
}

// resolve follows a YAML alias.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }
