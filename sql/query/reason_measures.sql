-- Scores and lengths in words, for the report's histograms: those of all scored reasons, or of the first 20,000.
-- Reads reason_score. No parameters.
select score, cast(n_words as double) as n_words
from reason_score
where score is not null
order by kind, user_id nulls first, item_id nulls first
limit 20000
