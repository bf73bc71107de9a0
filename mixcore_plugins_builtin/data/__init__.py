"""The data sets that come with mixcore."""
