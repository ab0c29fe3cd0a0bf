-- The mean score of all scored reasons, and their mean length in words; null where there are none. Summed as decimals, so that the
-- order of the rows cannot change the last bit.
-- Reads reason_score. No parameters.
select
    cast(sum(cast(least(greatest(score, -1e9), 1e9) as decimal(18, 8))) as double) / count(*) as score,
    cast(sum(n_words) as double) / count(*) as n_words
from reason_score
where score is not null
