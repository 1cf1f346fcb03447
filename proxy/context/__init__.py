"""What goes to the model. Pure: a budget and messages in, a plan out."""
