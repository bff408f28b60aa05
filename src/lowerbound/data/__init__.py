"""Reading, coding and writing of data; nothing here knows a model."""
