"""One phase of a project's training by Lightning's own loop: under masks, and resumed at any step without pickle."""
