"""The words and rules of agentsvc. Standard library only; everything above may import it."""
