package image

import "slices"

// AddRegistries allows more registries, until the cache is closed; those that
// are there already stay as they are. A cache that was opened without any
// loses its default of docker.io.
//
// Errors: InvalidArgument.
func (c *Cache) AddRegistries(list []Registry) error {
	if len(list) == 0 {
		return nil
	}
	more, err := parseRegistries(list)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	all := slices.Clone(c.registries) // Pulls under way read the old one
	if len(c.opts.Registries) == 0 {
		all, c.opts.Registries = nil, list
	}
	for _, e := range more {
		if !slices.Contains(all, e) {
			all = append(all, e)
		}
	}
	c.registries = all
	return nil
}

// allowed returns the registries as of now.
func (c *Cache) allowed() registries {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.registries
}
